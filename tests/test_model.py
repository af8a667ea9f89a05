"""The architecture against Hugging Face's, and what makes it a GPT."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from tiny import logits, tiny_model
from train_gpt2 import GPT, GPTConfig, attend_causally

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def test_names_and_shapes_are_hugging_face_s():
    with torch.device("meta"):  # shapes without memory
        ours = GPT(GPTConfig()).state_dict()
        theirs = GPT2LMHeadModel(GPT2Config()).state_dict()
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        shape = theirs[name].shape
        assert weight.shape == (shape[::-1] if name.endswith(CONV1D) else shape), name


def test_number_of_parameters():
    with torch.device("meta"):
        model = GPT(GPTConfig())
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


def test_a_token_changes_no_logits_before_it():
    model = tiny_model()
    idx = torch.randint(0, 100, (2, 8))
    changed = idx.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 100
    before, after = logits(model, idx), logits(model, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-4)


def test_heads_in_one_matmul_equal_a_loop_over_heads():
    attention = tiny_model().transformer.h[0].attn
    x = torch.randn(2, 8, 16)
    q, k, v = attention.c_attn(x).split(16, dim=2)
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        scores = q[..., head] @ k[..., head].mT / 8**0.5
        scores = scores + torch.full((8, 8), float("-inf")).triu(1)
        heads.append(scores.softmax(dim=-1) @ v[..., head])
    torch.testing.assert_close(attention(x), attention.c_proj(torch.cat(heads, dim=-1)))


def test_forward_maps_ids_to_logits():
    assert logits(tiny_model(), torch.zeros(3, 7, dtype=torch.long)).shape == (3, 7, 100)


def test_a_sequence_over_block_size_is_refused():
    with pytest.raises(ValueError, match="33 tokens does not fit block_size 32"):
        tiny_model()(torch.zeros(1, 33, dtype=torch.long))


def test_embedding_and_head_are_one_tensor():
    model = tiny_model()
    assert model.transformer.wte.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert model.transformer.wte.weight is model.lm_head.weight


def test_first_loss_of_the_tied_model_is_near_knowing_nothing():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=32, n_layer=2, n_head=4, n_embd=256))
    x, y = torch.randint(0, 50257, (2, 4, 32))
    assert abs(model(x, y)[1].item() - math.log(50257)) < 0.25


def test_weights_start_as_gpt2_s():
    model = GPT(GPTConfig(block_size=256, vocab_size=1000, n_embd=384))  # 12 layers
    expected = {"wte": 0.02, "wpe": 0.01, "c_attn": 0.02, "c_fc": 0.02, "c_proj": 0.02 / 24**0.5}
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all(), name
        elif "ln_" in name:
            assert (p == 1).all(), name
        else:
            std = next(std for part, std in expected.items() if part in name)
            assert abs(p.std().item() / std - 1) < 0.02, name
    assert f"{0.02 / 24**0.5:.5f}" == "0.00408"


def test_scaled_additions_keep_the_residual_stream_at_one():
    torch.manual_seed(0)
    plain, scaled = torch.zeros(768), torch.zeros(768)
    for _ in range(100):
        plain += torch.randn(768)
        scaled += torch.randn(768) / 100**0.5
    assert abs(plain.std() - 10) < 1 and abs(scaled.std() - 1) < 0.1


def test_flash_attention_equals_the_four_lines_it_replaces():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 32, 8)  # each (B, nh, T, hs)
    att = q @ k.transpose(-2, -1) / math.sqrt(8)
    att = att.masked_fill(torch.ones(32, 32, dtype=torch.bool).triu(1), float("-inf"))
    expected = F.softmax(att, dim=-1) @ v
    flash = attend_causally(q, k, v)
    largest = (flash - expected).abs().max().item()
    print(f"largest difference: {largest:.1e}")
    assert largest < 1e-5


def test_no_square_of_T_is_kept_for_the_backward_pass():
    attention = tiny_model(block_size=512).transformer.h[0].attn
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(torch.randn(1, 512, 16))
    assert kept and not any(shape[-2:] == (512, 512) for shape in kept)


def test_padding_ids_are_never_sampled():
    model = tiny_model(vocab_size=50304)
    with torch.no_grad():  # rig the padding to be the likeliest by far
        model.lm_head.weight.zero_()
        model.lm_head.weight[50257:] = model.transformer.ln_f.bias.fill_(1.0)
    start = torch.zeros(4, 1, dtype=torch.long)
    assert logits(model, start)[:, -1].argmax(dim=-1).min() >= 50257
    assert model.generate(start, 20, top_k=50304).max() < 50257


def test_number_of_parameters_with_a_nice_vocabulary():
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=50304))
    assert 50304 == 393 * 128
    assert sum(p.numel() for p in model.parameters()) == 124_475_904


def test_two_endings_in_one_row_see_the_context_and_themselves():
    model = tiny_model()
    context, one, two = torch.randint(0, 100, (3, 1, 4))
    row = torch.cat((context, one, two), dim=1)
    pos = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7])
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    mask[8:, 4:8] = False  # the second ending does not see the first
    attend = partial(F.scaled_dot_product_attention, attn_mask=mask)
    packed = model.hidden(row, pos, [attend] * 2)
    torch.testing.assert_close(packed[:, :8], model.hidden(torch.cat((context, one), dim=1)))
    torch.testing.assert_close(packed[:, 8:], model.hidden(torch.cat((context, two), dim=1))[:, 4:])


def test_the_flops_of_a_token_are_those_that_torch_counts():
    model, idx = tiny_model(n_embd=64), torch.randint(0, 100, (2, 32))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(idx)[0].flatten(0, 1), idx.flatten()).backward()
    counted = counter.get_total_flops() / idx.numel()
    assert 1.0 < model.flops_per_token() / counted < 1.02  # biases and LayerNorms count as weights
