// SPDX-License-Identifier: Apache-2.0
// Volume rendering for training: forward and backward through hash grid, density network, branch
// and compositing, for blocks of rays whose numbers stay in the processor's cache.
//
// Equations: `field/volume_rendering.py`, `field/radiance_field.py`, `kernels/compositing.py`.
// What the backward pass needs is kept in a workspace that Python lends to a batch of rays.
// Sums over samples are taken in the same order on any number of threads.
#include <cstring>

#include "gradients.h"
#include "interface.h"
#include "parallel.h"
#include "ray_block.h"
#include "scratch.h"
#include "trained_networks.h"

namespace native {
namespace {

// Add the groups' sums (inputs, outputs), packed, to torch's gradients (outputs, stride).
void unpack(const TorchLayer& layer, const Packed& packed, int inputs, int skipped,
            const float* sums) {
  if (!layer.weight_gradient) return;
  const float* of_weight = sums + packed.gradient;
  for (int o = 0; o < layer.outputs; ++o) {
    for (int i = 0; i < inputs; ++i) {
      layer.weight_gradient[o * layer.stride + i] += of_weight[(skipped + i) * packed.outputs + o];
    }
    layer.bias_gradient[o] += of_weight[packed.inputs * packed.outputs + o];
  }
}

void unpack_all(const TrainedField& field, const Nets& nets, const float* sums) {
  const int features = field.density[1].outputs - 1, last = field.layers - 1;
  for (int l = 0; l < 2; ++l) {
    unpack(field.density[l], nets.density[l], field.density[l].inputs, 0, sums);
  }
  unpack(field.branch[0], nets.branch[0], features, 1, sums);
  if (last == 2) {
    unpack(field.branch[1], nets.branch[1], field.branch[1].inputs, 0, sums);
  }
  const TorchLayer& first = field.branch[0];
  if (field.harmonics && first.weight_gradient) {
    const float* of_harmonics = sums + nets.gradient_floats;
    for (int o = 0; o < first.outputs; ++o) {
      for (int h = 0; h < kHarmonics; ++h) {
        first.weight_gradient[o * first.stride + features + h] +=
            of_harmonics[h * nets.branch[0].outputs + o];
      }
    }
  }
  const TorchLayer& end = field.branch[last];
  if (!end.weight_gradient) return;
  const Packed& packed = nets.branch[last];
  const float* of_weight = sums + packed.gradient;
  for (int c = 0; c < end.outputs; ++c) {
    for (int i = 0; i < end.inputs; ++i) {
      end.weight_gradient[c * end.stride + i] += of_weight[c * packed.inputs + i];
    }
    end.bias_gradient[c] += of_weight[packed.inputs * packed.outputs + c];
  }
}

// The table's gradient: a level, or a part of its rows, belongs to one thread, so none collide.
void scatter(const Plan& plan) {
  const TrainedField& field = plan.field;
  const int levels = field.grid.levels;
  int parts = 1;
  while (parts * levels < plan.batch.threads) parts *= 2;
  parallel(static_cast<int64_t>(parts) * levels, plan.batch.threads, [&](int64_t item) {
    const int level = static_cast<int>(item % levels), part = static_cast<int>(item / levels);
    for (int64_t b = 0; b < plan.blocks; ++b) {
      float* block = plan.block(b);
      const int64_t left = (plan.batch.rays - b * kRays) * plan.batch.samples;
      table_gradient(field.grid, level, part, parts, block + plan.position[0].offset,
                     block + plan.position[1].offset, block + plan.position[2].offset,
                     static_cast<int>(left < plan.rows ? left : plan.rows),
                     block + plan.pull.offset, plan.pull.width, field.table_gradient);
    }
  });
}

}  // namespace
}  // namespace native

extern "C" {

NATIVE_EXPORT int64_t training_workspace(const native::TrainedField* field,
                                         const native::RayBatch* batch) {
  return native::Plan(*field, *batch).workspace();
}

NATIVE_EXPORT void training_forward(const native::TrainedField* field,
                                    const native::RayBatch* batch, const native::Rendered* out) {
  const native::Plan plan(*field, *batch);
  const native::Nets nets(*field);
  native::parallel(plan.blocks, batch->threads, [&](int64_t index) {
    native::Block(plan, nets, index, plan.block(index)).forward(*out);
  });
}

// Densities of points alone, each a ray of one sample; no workspace.
NATIVE_EXPORT void training_density(const native::TrainedField* field,
                                    const native::RayBatch* batch, float* density) {
  const native::Plan plan(*field, *batch);
  const native::Nets nets(*field);
  native::parallel(plan.blocks, batch->threads, [&](int64_t index) {
    native::Buffer<float> memory(plan.block_floats);
    native::Block(plan, nets, index, &memory[0]).densities(density);
  });
}

// Points (rays, samples, 3) = origins + distances directions.
NATIVE_EXPORT void training_points(const float* origins, const float* directions,
                                   const float* distances, int64_t rays, int32_t samples,
                                   float* points) {
  for (int64_t i = 0; i < rays; ++i) {
    for (int k = 0; k < samples; ++k) {
      for (int a = 0; a < 3; ++a) {
        points[(i * samples + k) * 3 + a] =
            origins[i * 3 + a] + distances[i * samples + k] * directions[i * 3 + a];
      }
    }
  }
}

NATIVE_EXPORT void training_backward(const native::TrainedField* field,
                                     const native::RayBatch* batch, const native::Rendered* seen,
                                     const native::Pulls* pulls) {
  const native::Plan plan(*field, *batch);
  const native::Nets nets(*field);
  const int64_t floats = nets.gradient_floats + 9 * nets.branch[0].outputs;
  native::Buffer<float> sums(plan.groups * floats + 1);
  native::parallel(plan.groups, batch->threads, [&](int64_t group) {
    float* own = &sums[group * floats];
    std::memset(own, 0, sizeof(float) * floats);
    const int64_t first = group * plan.blocks / plan.groups;
    const int64_t end = (group + 1) * plan.blocks / plan.groups;
    for (int64_t index = first; index < end; ++index) {
      native::Block(plan, nets, index, plan.block(index)).backward(*seen, *pulls, own);
    }
  });
  for (int64_t group = 1; group < plan.groups; ++group) {
    for (int64_t i = 0; i < floats; ++i) sums[i] += sums[group * floats + i];
  }
  if (plan.groups) native::unpack_all(*field, nets, &sums[0]);
  if (field->table_gradient && (!pulls->stop || pulls->density)) native::scatter(plan);
}

}  // extern "C"
