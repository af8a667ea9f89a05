// A box above the contents that lists the sections with the words typed; the book reads without it.
const box = document.createElement("input"), found = document.createElement("ol");
box.type = "search";
box.placeholder = "Search";
box.setAttribute("aria-label", "Search the book");
found.className = "found";
document.getElementById("contents").prepend(box, found);

function link([href, page, title]) {
  const item = document.createElement("li"), a = document.createElement("a");
  a.href = href;
  a.textContent = title.startsWith(page) ? title : `${page}: ${title}`;
  item.append(a);
  return item;
}

box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (text) => words.every((word) => text.toLowerCase().includes(word));
  const hits = words.length ? SECTIONS.filter(([, page, title, text]) => has(`${title} ${text}`)) : [];
  const titled = hits.filter(([, , title]) => has(title));
  const others = hits.filter((hit) => !titled.includes(hit));
  found.replaceChildren(...[...titled, ...others].slice(0, 12).map(link));
});
