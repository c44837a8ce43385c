"""What a short command imports decides how long it takes; no time is measured here."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import mmdit
from mmdit.config import as_config
from mmdit.layouts.layout import Layout
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.meta_device import without_compiler
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.shape_check.shapes import check_shapes
from tests.support.paths import CONFIGS
from tests.support.sparse_files import sparse_shapes

RUN = """
import sys
from mmdit_cli.app import main
sys.argv = ["mmdit", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in {names!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], ["torch", "pydantic", "numpy", "matplotlib", "yaml"]),
        (
            ["flops", "-c", str(CONFIGS / "two-modality.yaml")],
            ["torch._dynamo", "torch._inductor", "matplotlib", "huggingface_hub", "pydantic"],
        ),
        pytest.param(
            ["profile", "-c", "toy-two-modality", "--repeats", "1", "--max-seconds", "0", "--set", "run.batch_size=1"],
            ["torch._dynamo", "torch._inductor", "matplotlib"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["shape-check", "-c", str(CONFIGS / "sd3-medium.yaml")],
            ["torch._dynamo", "torch._inductor"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_command_imports_nothing_heavy_that_it_does_not_need(arguments, absent):
    assert imported_by(arguments, absent) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth"),
    [("flux.1-dev", 19), ("qwen-image", 20)],  # as published, and one that is held against several configs
)
def test_what_a_file_is_takes_little_more_than_torch(name, depth, tmp_path):
    model = replace(as_config(name).model, depth=depth)
    file = sparse_shapes(tmp_path / "f", Layout("diffusers", model).theirs)
    absent = ["torch._dynamo", "torch._inductor", "sympy", "pydantic", "huggingface_hub", "matplotlib", "gguf"]
    assert imported_by(["shape-check", "--weights", str(file)], absent) == []


def imported_by(arguments, names):
    """Which of the modules are there after a command has run."""
    code = RUN.format(arguments=arguments, names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stderr.strip().splitlines()[-1])


@pytest.mark.slow
def test_counts_and_shapes_are_those_with_the_compiler_there():
    code = (
        "import torch._dynamo\n"
        "from mmdit_cli.model_parts.flop_count import count_flops\n"
        "from mmdit_cli.request.tool_config import load_tool_config\n"
        f"print(count_flops(load_tool_config({str(CONFIGS / 'two-modality.yaml')!r})))"
    )
    wanted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    without = code.replace(
        "import torch._dynamo\n", "from mmdit_cli.model_parts.meta_device import without_compiler\n"
    ).replace("print", "with without_compiler(): print")
    assert subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True).stdout == wanted


@pytest.mark.slow
def test_the_compiler_works_after_it_was_kept_out():
    code = (
        "import torch\n"
        "from mmdit_cli.model_parts.meta_device import without_compiler\n"
        "with without_compiler():\n"
        "    torch.empty(3, device='meta') * 2 / 3\n"
        "print(torch.compile(lambda x: x * 2 + 1, backend='eager')(torch.ones(2)).tolist(), torch._dynamo.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("] ")[0] == "[3.0, 3.0" and done.stdout.strip().endswith("torch._dynamo")


def test_unused_parameters_are_those_that_a_backward_pass_does_not_reach():
    config = load_tool_config(
        CONFIGS / "sd3-medium.yaml", ["model.depth=2", "run.tokens.image=16", "run.tokens.text=8"]
    )
    notes = check_shapes(config).notes
    with torch.device("meta"):
        model = mmdit.build(config.model)
    from mmdit_cli.request.inputs import example_inputs

    model(**example_inputs(config, device="meta").kwargs)["image"].sum().backward()
    assert notes == [f"no gradient reaches {name}" for name, p in model.named_parameters() if p.grad is None]


def test_nothing_is_kept_out_where_it_is_there_already():
    import torch._dynamo

    with without_compiler():
        assert sys.modules["torch._dynamo"] is torch._dynamo
        assert count_flops(load_tool_config(CONFIGS / "adaptive.yaml")).forward_flops > 0
    assert sys.modules["torch._dynamo"] is torch._dynamo
