"""Downloads that end: with the file, or with an error after a minute or so.

Imported where something is downloaded: requests takes a while.
"""

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from support.cli import UserError

TIMEOUT = 10  # seconds to wait for a connection, and then for each next byte
RETRIES = 3
PAUSE = 1  # second before the next try, doubled each time
LONGEST_PAUSE = 60  # seconds, also where a server asks for more
PASSING = (408, 429, 500, 502, 503, 504)  # statuses after which another try may help


class Retries(Retry):
    def get_retry_after(self, response: requests.Response) -> float | None:
        wait = super().get_retry_after(response)
        return None if wait is None else min(wait, LONGEST_PAUSE)


def fetch(url: str, hint: str) -> bytes:
    """What the URL answers with. Raises UserError, which ends in `hint`, if that cannot be had."""
    retries = Retries(
        RETRIES, status_forcelist=PASSING, backoff_factor=PAUSE, raise_on_status=False
    )
    with requests.Session() as session:
        session.mount("https://", HTTPAdapter(max_retries=retries))
        session.mount("http://", HTTPAdapter(max_retries=retries))
        try:
            response = session.get(url, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise UserError(f"cannot reach {url} ({type(error).__name__}): {hint}") from error
    if response.status_code != 200:
        raise UserError(f"{url} answered with status {response.status_code}: {hint}")
    return response.content
