// SPDX-License-Identifier: Apache-2.0
// What Python hands over for training, the workspace of a batch of rays, and its packed networks.
#pragma once

#include <cstdint>
#include <cstring>

#include "interface.h"
#include "layers.h"
#include "scratch.h"
#include "vector.h"

namespace native {

// A fully connected layer as torch keeps it: weight (outputs, stride), bias (outputs). Gradients
// are added to; null: they are not needed.
struct TorchLayer {
  const float* weight;
  const float* bias;
  float* weight_gradient;
  float* bias_gradient;
  int32_t inputs, outputs, stride;
};

struct TrainedField {
  Grid grid;
  const float* level_share;  // (levels) weight of each level, coarse to fine
  float* table_gradient;     // (rows, features), added to; null: not needed
  float center[3], inverse_half[3];
  TorchLayer density[2];
  TorchLayer branch[3];
  int32_t layers;         // of the branch: 2 or 3
  int32_t harmonics;      // inputs of the branch behind the features: 9, or 0
  float density_bias, inverse_scale;
};

struct RayBatch {
  const float* points;      // (rays, samples, 3) world points
  const float* directions;  // (rays, 3)
  const float* distances;   // (rays, samples)
  const float* widths;      // (rays, samples)
  float* workspace;         // `training_workspace` floats
  int64_t rays;
  int32_t samples, threads;
  float direction_share, gradient_distance;
};

struct Rendered {
  float* values;   // (rays, channels)
  float* weights;  // (rays, samples)
  float* density;  // (rays, samples)
};

// Gradients of the loss; null where there is none.
struct Pulls {
  const float* values;
  const float* weights;
  const float* density;
  float* points;      // out (rays, samples, 3)
  float* directions;  // out (rays, 3)
  int32_t stop;       // the branch learns, density and features do not
};

constexpr int kRays = kRows;  // a block: its rows are whole groups of kRows for any samples
constexpr int kHarmonics = 9;
constexpr int kMostGroups = 64;  // of blocks that add up their gradients of weights
constexpr float kOpaque = 1e3f;  // optical depth of the far end

inline int padded(int count) { return (count + 15) / 16 * 16; }

// Weights packed for both passes, and where one group of blocks adds up their gradients.
struct Packed {
  Layer forward;            // weight (padded inputs, padded outputs)
  Layer backward;           // weight (padded outputs, padded inputs), bias 0
  int inputs, outputs;      // padded
  int64_t gradient;         // offset of (padded inputs + 1, padded outputs) in a group's sums
};

class Plan {
 public:
  Plan(const TrainedField& field, const RayBatch& batch) : field(field), batch(batch) {
    rows = kRays * batch.samples;
    blocks = (batch.rays + kRays - 1) / kRays;
    groups = blocks < kMostGroups ? blocks : kMostGroups;
    channels = field.branch[field.layers - 1].outputs;
    lay_out();
  }

  int64_t workspace() const { return blocks * block_floats; }

  float* block(int64_t index) const { return batch.workspace + index * block_floats; }

  // The numbers of one block of rows, each an array (rows, width).
  struct Part {
    int64_t offset;
    int width;
  };

  const TrainedField& field;
  const RayBatch& batch;
  int rows, channels;
  int64_t blocks, groups, block_floats = 0;
  Part position[3], encoded, hidden, raw, branch[2], values, pull;

 private:
  Part part(int width) {
    const Part made = {block_floats, width};
    block_floats += static_cast<int64_t>(rows) * width;
    return made;
  }

  void lay_out() {
    for (Part& axis : position) axis = part(1);
    encoded = part(padded(field.density[0].inputs));
    hidden = part(padded(field.density[0].outputs));
    raw = part(padded(field.density[1].outputs));
    for (int l = 0; l + 1 < field.layers; ++l) branch[l] = part(padded(field.branch[l].outputs));
    values = part(channels);
    pull = part(encoded.width);
  }
};

// The networks of a field, packed for vector registers.
class Nets {
 public:
  explicit Nets(const TrainedField& field)
      : memory_(size(field)), field_(field) {
    const int features = field.density[1].outputs - 1;
    float* next = &memory_[0];
    zeros_ = next;
    std::memset(zeros_, 0, sizeof(float) * kWidest);
    next += kWidest;
    density[0] = pack(field.density[0], field.density[0].inputs, 0, next);
    density[1] = pack(field.density[1], field.density[1].inputs, 0, next);
    branch[0] = pack(field.branch[0], features, 1, next);
    for (int l = 1; l < field.layers; ++l) {
      branch[l] = pack(field.branch[l], field.branch[l].inputs, 0, next);
    }
    first = field.branch[0].weight;
  }

  Packed density[2], branch[3];
  const float* first;
  int64_t gradient_floats = 0;

 private:
  static constexpr int kWidest = 1024;

  static int64_t size(const TrainedField& field) {
    int64_t floats = kWidest;
    const auto add = [&](const TorchLayer& layer) {
      floats += 2 * static_cast<int64_t>(padded(layer.inputs + 1)) * padded(layer.outputs)
                + padded(layer.outputs);
    };
    for (const TorchLayer& layer : field.density) add(layer);
    for (int l = 0; l < field.layers; ++l) add(field.branch[l]);
    return floats;
  }

  // `skipped` inputs in front are read by no output.
  Packed pack(const TorchLayer& layer, int inputs, int skipped, float*& next) {
    const int in = padded(skipped + inputs), out = padded(layer.outputs);
    Packed made;
    made.inputs = in;
    made.outputs = out;
    float* forward = next;
    float* backward = forward + in * out;
    float* bias = backward + in * out;
    next = bias + out;
    std::memset(forward, 0, sizeof(float) * (next - forward));
    for (int o = 0; o < layer.outputs; ++o) {
      bias[o] = layer.bias[o];
      for (int i = 0; i < inputs; ++i) {
        const float w = layer.weight[o * layer.stride + i];
        forward[(skipped + i) * out + o] = w;
        backward[o * in + skipped + i] = w;
      }
    }
    made.forward = {forward, bias, skipped + inputs, layer.outputs, out};
    made.backward = {backward, zeros_, layer.outputs, skipped + inputs, in};
    made.gradient = gradient_floats;
    gradient_floats += (in + 1) * out;
    return made;
  }

  Buffer<float> memory_;
  const TrainedField& field_;
  float* zeros_;
};

// Real spherical harmonics, as `radiance_field.spherical_harmonics`.
inline void harmonics_of(const float* d, float share, float* out) {
  const float x = d[0] * share, y = d[1] * share, z = d[2] * share;
  const float found[kHarmonics] = {1.0f, x, y, z, x * y, y * z, z * x, x * x - y * y,
                                   3.0f * z * z - 1.0f};
  std::memcpy(out, found, sizeof found);
}

inline void harmonics_gradient(const float* d, float share, const float* pull, float* out) {
  const float x = d[0] * share, y = d[1] * share, z = d[2] * share;
  out[0] += share * (pull[1] + y * pull[4] + z * pull[6] + 2.0f * x * pull[7]);
  out[1] += share * (pull[2] + x * pull[4] + z * pull[5] - 2.0f * y * pull[7]);
  out[2] += share * (pull[3] + y * pull[5] + x * pull[6] + 6.0f * z * pull[8]);
}

// y = f(x) for whole vectors; `count` is rounded up.
template <class Function>
NATIVE_INLINE void map(const float* x, float* y, int count, Function f) {
  for (int i = 0; i < count; i += kLanes) store(y + i, f(load(x + i)));
}

// Share of the light that a sample takes, 1 - exp(-depth), exact for small depths, too.
NATIVE_INLINE vf taken(vf depth) {
  const vf x = depth;
  vf series = fma(x, all(-1.0f / 720.0f), all(1.0f / 120.0f));
  series = fma(x, -series, all(1.0f / 24.0f));
  series = fma(x, -series, all(1.0f / 6.0f));
  series = fma(x, -series, all(0.5f));
  series = fma(x, -series, all(1.0f)) * x;
  return select((vi)(x < all(0.2f)), series, all(1.0f) - exponential(-x));
}

}  // namespace native
