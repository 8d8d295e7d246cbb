# SPDX-License-Identifier: Apache-2.0
"""
tiny-cuda-nn's `Network` with a `FullyFusedMLP`, transcribed to torch on the CPU.

From `src/fully_fused_mlp.cu` (matrices one after the other, rows first, none has a bias),
`encodings/identity.h` (inputs are padded with ones to 16) and `bindings/torch` (batches of 256,
half parameters and outputs, a loss scale of its own).
"""

from typing import Any

import torch

GRANULARITY, LOSS_SCALE = 256, 128.0


class _Function(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, module: 'Network', x: Any, params: Any) -> Any:
        assert len(x) % GRANULARITY == 0 and x.dtype == torch.float32
        assert params.dtype == torch.half and params.shape == (module.n_params,)
        ctx.module = module
        ctx.save_for_backward(x, params)
        return module.evaluate(x, params).half()

    @staticmethod
    def backward(ctx: Any, dL_dy: Any) -> Any:
        assert dL_dy.dtype == torch.half
        x, params = (part.detach().requires_grad_() for part in ctx.saved_tensors)
        with torch.enable_grad():
            y = ctx.module.evaluate(x, params)
            for_x, for_params = torch.autograd.grad(
                y, (x, params), (dL_dy * LOSS_SCALE).to(y.dtype))
        return None, for_x / LOSS_SCALE, for_params.half() / LOSS_SCALE


class Network(torch.nn.Module):
    """As `bindings/torch/tinycudann/modules.py`."""

    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: dict[str, Any],
                 seed: int = 1337) -> None:
        """Refuse what the real one does not know."""
        super().__init__()
        assert network_config['otype'] == 'FullyFusedMLP'
        width = network_config['n_neurons']
        assert width in (16, 32, 64, 128)
        self.inputs, self.n_output_dims = n_input_dims, n_output_dims
        padded = -(-n_input_dims // 16) * 16
        self.shapes = [(width, padded),
                       *[(width, width)] * (network_config['n_hidden_layers'] - 1),
                       (-(-n_output_dims // 16) * 16, width)]
        self.n_params = sum(rows * columns for rows, columns in self.shapes)
        self.params = torch.nn.Parameter(torch.zeros(self.n_params))

    def evaluate(self, x: Any, params: Any) -> Any:
        """All layers; half weights, sums in floats."""
        x = torch.nn.functional.pad(x, (0, self.shapes[0][1] - self.inputs), value=1.0)
        start = 0
        for i, (rows, columns) in enumerate(self.shapes):
            weight = params[start:start + rows * columns].view(rows, columns).float()
            start += rows * columns
            x = x @ weight.T
            x = x.relu() if i + 1 < len(self.shapes) else x
        return x

    def forward(self, x: Any) -> Any:
        """Outputs (n, n_output_dims), half."""
        missing = -len(x) % GRANULARITY
        padded = torch.nn.functional.pad(x, [0, 0, 0, missing]) if missing else x
        out = _Function.apply(self, padded.float().contiguous(),
                              self.params.to(torch.half).contiguous())
        return out[:len(x), :self.n_output_dims]
