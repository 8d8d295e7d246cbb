// SPDX-License-Identifier: Apache-2.0
// A block of rays in training: forward and backward through hash grid, networks and compositing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "encoding.h"
#include "gradients.h"
#include "layers.h"
#include "scratch.h"
#include "trained_networks.h"
#include "vector.h"

namespace native {

// One block of rays through the field, forward; then backward.
class Block {
 public:
  Block(const Plan& plan, const Nets& nets, int64_t index, float* memory)
      : plan_(plan), nets_(nets), field_(plan.field), batch_(plan.batch), memory_(memory),
        first_(index * kRays), samples_(plan.batch.samples) {
    const int64_t left = batch_.rays - first_;
    rays_ = left < kRays ? static_cast<int>(left) : kRays;
    used_ = rays_ * samples_;
    padded_ = (used_ + kRows - 1) / kRows * kRows;
  }

  // Densities of the samples alone.
  void densities(float* out) {
    place();
    encode_points();
    float* log_density = Scratch().take<float>(plan_.rows + kLanes);
    for (int r = 0; r < padded_; r += kRows) density_network(r, log_density);
    exponentials(log_density);
    std::memcpy(out + first_ * samples_, log_density, sizeof(float) * used_);
  }

  void forward(const Rendered& out) {
    place();
    encode_points();
    Scratch scratch;
    int32_t* ray = scratch.take<int32_t>(plan_.rows);
    for (int r = 0; r < padded_; ++r) ray[r] = r < used_ ? r / samples_ : 0;
    const int width = nets_.branch[0].outputs;
    float* starts = scratch.take<float>(kRays * width);
    direction_starts(starts, width);
    float* log_density = scratch.take<float>(plan_.rows + kLanes);
    for (int r = 0; r < padded_; r += kRows) {
      density_network(r, log_density);
      apply<true>(nets_.branch[0].forward, row(plan_.raw, r), plan_.raw.width,
                  row(plan_.branch[0], r), starts, ray + r);
      if (field_.layers == 3) {
        apply<true>(nets_.branch[1].forward, row(plan_.branch[0], r), plan_.branch[0].width,
                    row(plan_.branch[1], r));
      }
      last_layer(r);
    }
    composite_all(log_density, out);
  }

  // `sums`: where the gradients of weights are added up, of `Nets::gradient_floats`.
  void backward(const Rendered& seen, const Pulls& pulls, float* sums) {
    Scratch scratch;
    float* of_density = scratch.take<float>(plan_.rows);
    float* of_values = scratch.take<float>(static_cast<size_t>(plan_.rows) * plan_.channels);
    composite_gradients(seen, pulls, of_density, of_values);
    const bool whole = !pulls.stop, deep = whole || pulls.density;
    const int last = field_.layers - 1, width = plan_.branch[0].width;
    float* upper = scratch.take<float>(kRows * plan_.branch[last - 1].width);
    float* lower = scratch.take<float>(kRows * width);
    float* of_raw = scratch.take<float>(kRows * plan_.raw.width);
    float* of_hidden = scratch.take<float>(kRows * plan_.hidden.width);
    float* of_starts = scratch.take<float>(kRays * width);
    std::memset(of_starts, 0, sizeof(float) * kRays * width);
    for (int r = 0; r < padded_; r += kRows) {
      last_layer_gradient(r, of_values, upper, sums);
      float* of_first = upper;
      if (last == 2) {
        weight_gradient(nets_.branch[1], row(plan_.branch[0], r), upper, sums);
        apply<false>(nets_.branch[1].backward, upper, plan_.branch[1].width, lower);
        mask(row(plan_.branch[0], r), lower, kRows * width);
        of_first = lower;
      }
      add_by_ray(of_first, r, width, of_starts);
      outer(row(plan_.raw, r), plan_.raw.width, nets_.branch[0].inputs, of_first, width, width,
            sums + nets_.branch[0].gradient);
      if (!deep) continue;
      if (whole) {
        apply<false>(nets_.branch[0].backward, of_first, width, of_raw);
      } else {
        std::memset(of_raw, 0, sizeof(float) * kRows * plan_.raw.width);
      }
      for (int k = 0; k < kRows; ++k) of_raw[k * plan_.raw.width] = of_density[r + k];
      weight_gradient(nets_.density[1], row(plan_.hidden, r), of_raw, sums);
      apply<false>(nets_.density[1].backward, of_raw, plan_.raw.width, of_hidden);
      mask(row(plan_.hidden, r), of_hidden, kRows * plan_.hidden.width);
      weight_gradient(nets_.density[0], row(plan_.encoded, r), of_hidden, sums);
      float* pull = row(plan_.pull, r);
      apply<false>(nets_.density[0].backward, of_hidden, plan_.hidden.width, pull);
      share_levels(pull, kRows, plan_.pull.width);
    }
    direction_gradients(of_starts, width, sums, pulls);
    if (pulls.points && deep) move_points(pulls);
  }

 private:
  float* row(const Plan::Part& part, int r) const {
    return memory_ + part.offset + static_cast<int64_t>(r) * part.width;
  }

  // The samples' points in the unit cube.
  void place() {
    float* unit[3] = {row(plan_.position[0], 0), row(plan_.position[1], 0),
                      row(plan_.position[2], 0)};
    const float* points = batch_.points + first_ * samples_ * 3;
    for (int r = 0; r < used_; ++r) {
      float u[3], m = 1.0f;
      for (int a = 0; a < 3; ++a) {
        u[a] = (points[r * 3 + a] - field_.center[a]) * field_.inverse_half[a];
        m = std::fabs(u[a]) > m ? std::fabs(u[a]) : m;
      }
      const float inverse = 1.0f / m, scale = (2.0f - inverse) * inverse * 0.25f;
      for (int a = 0; a < 3; ++a) unit[a][r] = u[a] * scale + 0.5f;
    }
    for (float* axis : unit) {
      for (int r = used_; r < padded_; ++r) axis[r] = 0.5f;
    }
  }

  void encode_points() {
    const int columns = field_.grid.levels * field_.grid.features;
    encode(field_.grid, row(plan_.position[0], 0), row(plan_.position[1], 0),
           row(plan_.position[2], 0), padded_, row(plan_.encoded, 0), plan_.encoded.width);
    const int beyond = plan_.encoded.width - columns;
    if (beyond) {  // levels that are not read yet, and what pads a row
      for (int r = 0; r < padded_; ++r) {
        std::memset(row(plan_.encoded, r) + columns, 0, sizeof(float) * beyond);
      }
    }
    share_levels(row(plan_.encoded, 0), padded_, plan_.encoded.width);
  }

  void density_network(int r, float* log_density) {
    float* hidden = row(plan_.hidden, r);
    float* raw = row(plan_.raw, r);
    apply<true>(nets_.density[0].forward, row(plan_.encoded, r), plan_.encoded.width, hidden);
    apply<false>(nets_.density[1].forward, hidden, plan_.hidden.width, raw);
    for (int k = 0; k < kRows; ++k) log_density[r + k] = raw[k * plan_.raw.width];
  }

  // From log densities to densities, in place.
  void exponentials(float* log_density) const {
    const vf bias = all(field_.density_bias), scale = all(field_.inverse_scale);
    map(log_density, log_density, padded_, [&](vf x) {
      return exponential(min(max(x + bias, all(-15.0f)), all(11.0f))) * scale;
    });
  }

  // Multiply by the weights of the levels.
  void share_levels(float* x, int rows, int stride) const {
    const int features = field_.grid.features;
    for (int l = 0; l < field_.grid.levels; ++l) {
      const float share = field_.level_share[l];
      if (share == 1.0f) continue;
      for (int r = 0; r < rows; ++r) {
        for (int f = 0; f < features; ++f) x[r * stride + l * features + f] *= share;
      }
    }
  }

  // What the first layer of the branch begins with: its bias, and what it makes of the direction.
  void direction_starts(float* starts, int width) const {
    const TorchLayer& layer = field_.branch[0];
    const int features = field_.density[1].outputs - 1;
    for (int i = 0; i < kRays; ++i) {
      std::memcpy(starts + i * width, nets_.branch[0].forward.bias, sizeof(float) * width);
      if (!field_.harmonics || i >= rays_) continue;
      float sh[kHarmonics];
      harmonics_of(batch_.directions + (first_ + i) * 3, batch_.direction_share, sh);
      for (int o = 0; o < layer.outputs; ++o) {
        const float* w = layer.weight + o * layer.stride + features;
        for (int h = 0; h < kHarmonics; ++h) starts[i * width + o] += w[h] * sh[h];
      }
    }
  }

  void last_layer(int r) {
    const int last = field_.layers - 1, channels = plan_.channels;
    const Packed& layer = nets_.branch[last];
    const Plan::Part& part = plan_.branch[last - 1];
    float* values = row(plan_.values, r);
    for (int k = 0; k < kRows; ++k) {
      const float* x = row(part, r + k);
      for (int c = 0; c < channels; ++c) {
        const float* w = layer.backward.weight + c * layer.inputs;  // (outputs, inputs)
        vf total = zero();
        for (int i = 0; i < layer.inputs; i += kLanes) {
          total = fma(load(x + i), load(w + i), total);
        }
        values[k * channels + c] = sum(total) + layer.forward.bias[c];
      }
    }
    map(values, values, kRows * channels,
        [](vf x) { return all(1.0f) / (all(1.0f) + exponential(-x)); });
  }

  void composite_all(float* log_density, const Rendered& out) {
    exponentials(log_density);
    const int64_t at = first_ * samples_;
    std::memcpy(out.density + at, log_density, sizeof(float) * used_);
    const float* width = batch_.widths + at;
    for (int r = 0; r < used_; ++r) log_density[r] *= width[r];
    map(log_density, log_density, padded_, [](vf depth) { return taken(depth); });
    const int channels = plan_.channels;
    for (int i = 0; i < rays_; ++i) {
      float left = 1.0f;
      float* value = out.values + (first_ + i) * channels;
      for (int c = 0; c < channels; ++c) value[c] = 0.0f;
      for (int k = 0; k < samples_; ++k) {
        const int r = i * samples_ + k;
        const float weight = k + 1 < samples_ ? left * log_density[r] : left;
        left -= weight;
        out.weights[at + r] = weight;
        const float* sample = row(plan_.values, r);
        for (int c = 0; c < channels; ++c) value[c] += weight * sample[c];
      }
    }
  }

  // Gradients of the log density and of the branch's output before its sigmoid.
  void composite_gradients(const Rendered& seen, const Pulls& pulls, float* of_density,
                           float* of_values) {
    const int channels = plan_.channels;
    for (int i = 0; i < rays_; ++i) {
      const int64_t ray = first_ + i;
      const float* pull = pulls.values + ray * channels;
      float left = 0.0f, behind = 0.0f;
      for (int k = samples_ - 1; k >= 0; --k) {
        const int r = i * samples_ + k;
        const int64_t at = ray * samples_ + k;
        const float weight = seen.weights[at], near = batch_.distances[at];
        float share = 1.0f;
        if (near < batch_.gradient_distance) {
          share = near / batch_.gradient_distance;
          share *= share;
        }
        float own = pulls.weights ? pulls.weights[at] : 0.0f;
        const float* value = row(plan_.values, r);
        for (int c = 0; c < channels; ++c) {
          own += pull[c] * value[c];
          of_values[r * channels + c] =
              weight * pull[c] * share * value[c] * (1.0f - value[c]);
        }
        float gradient = pulls.stop ? 0.0f : (left * own - behind) * batch_.widths[at] * share;
        if (pulls.density) gradient += pulls.density[at];
        of_density[r] = gradient * seen.density[at];
        left += weight;
        behind += weight * own;
      }
    }
    for (int r = used_; r < padded_; ++r) {
      of_density[r] = 0.0f;
      for (int c = 0; c < channels; ++c) of_values[r * channels + c] = 0.0f;
    }
  }

  // Through the last layer: gradient of its inputs (kRows, width), masked by their ReLU.
  void last_layer_gradient(int r, const float* of_values, float* below, float* sums) {
    const int last = field_.layers - 1, channels = plan_.channels;
    const Packed& layer = nets_.branch[last];
    const Plan::Part& part = plan_.branch[last - 1];
    float* of_weight = sums + layer.gradient;  // (outputs, inputs) here; then of the bias
    float* of_bias = of_weight + layer.inputs * layer.outputs;
    for (int k = 0; k < kRows; ++k) {
      const float* pull = of_values + (r + k) * channels;
      const float* x = row(part, r + k);
      for (int c = 0; c < channels; ++c) of_bias[c] += pull[c];
      for (int i = 0; i < layer.inputs; i += kLanes) {
        const vf input = load(x + i);
        vf total = zero();
        for (int c = 0; c < channels; ++c) {
          const vf p = all(pull[c]);
          float* w = of_weight + c * layer.inputs + i;
          store(w, fma(p, input, load(w)));
          total = fma(p, load(layer.backward.weight + c * layer.inputs + i), total);
        }
        store(below + k * part.width + i, select((vi)(input > zero()), total, zero()));
      }
    }
  }

  static void mask(const float* x, float* pull, int count) {
    for (int i = 0; i < count; i += kLanes) {
      store(pull + i, select((vi)(load(x + i) > zero()), load(pull + i), zero()));
    }
  }

  void weight_gradient(const Packed& layer, const float* x, const float* pull, float* sums) {
    float* of_weight = sums + layer.gradient;
    outer(x, layer.inputs, layer.inputs, pull, layer.outputs, layer.outputs, of_weight);
    add_rows(pull, layer.outputs, of_weight + layer.inputs * layer.outputs);
  }

  // Each ray's sum of the rows of its samples.
  void add_by_ray(const float* pull, int r, int width, float* of_starts) const {
    const int end = used_ - r < kRows ? used_ - r : kRows;
    for (int k = 0; k < end; ++k) {
      float* total = of_starts + (r + k) / samples_ * width;
      for (int i = 0; i < width; i += kLanes) {
        store(total + i, load(total + i) + load(pull + k * width + i));
      }
    }
  }

  // Of what the first layer of the branch began with.
  void direction_gradients(const float* of_starts, int width, float* sums, const Pulls& pulls) {
    const TorchLayer& layer = field_.branch[0];
    const Packed& packed = nets_.branch[0];
    const int features = field_.density[1].outputs - 1;
    float* of_bias = sums + packed.gradient + packed.inputs * packed.outputs;
    float* of_harmonics = sums + nets_.gradient_floats;  // (9, width)
    for (int i = 0; i < rays_; ++i) {
      const float* pull = of_starts + i * width;
      for (int o = 0; o < width; o += kLanes) {
        store(of_bias + o, load(of_bias + o) + load(pull + o));
      }
      if (!field_.harmonics) continue;
      const float* d = batch_.directions + (first_ + i) * 3;
      float sh[kHarmonics], back[kHarmonics] = {};
      harmonics_of(d, batch_.direction_share, sh);
      for (int h = 0; h < kHarmonics; ++h) {
        float* w = of_harmonics + h * width;
        const vf factor = all(sh[h]);
        for (int o = 0; o < width; o += kLanes) {
          store(w + o, fma(factor, load(pull + o), load(w + o)));
        }
      }
      if (!pulls.directions) continue;
      for (int o = 0; o < layer.outputs; ++o) {
        const float* w = layer.weight + o * layer.stride + features;
        for (int h = 0; h < kHarmonics; ++h) back[h] += w[h] * pull[o];
      }
      harmonics_gradient(d, batch_.direction_share, back, pulls.directions + (first_ + i) * 3);
    }
  }

  // Gradients of the samples' points.
  void move_points(const Pulls& pulls) {
    Scratch scratch;
    float* of_unit[3];
    for (float*& axis : of_unit) {
      axis = scratch.take<float>(plan_.rows);
      std::memset(axis, 0, sizeof(float) * padded_);
    }
    position_gradient(field_.grid, row(plan_.position[0], 0), row(plan_.position[1], 0),
                      row(plan_.position[2], 0), padded_, row(plan_.pull, 0), plan_.pull.width,
                      of_unit);
    const int64_t first = first_ * samples_ * 3;
    for (int r = 0; r < used_; ++r) {
      const float* point = batch_.points + first + r * 3;
      float* out = pulls.points + first + r * 3;
      float u[3];
      for (int a = 0; a < 3; ++a) {
        u[a] = (point[a] - field_.center[a]) * field_.inverse_half[a];
        out[a] = of_unit[a][r];
      }
      contraction_gradient(u, out);
      for (int a = 0; a < 3; ++a) out[a] *= field_.inverse_half[a];
    }
  }

  const Plan& plan_;
  const Nets& nets_;
  const TrainedField& field_;
  const RayBatch& batch_;
  float* memory_;
  int64_t first_;
  int samples_, rays_, used_, padded_;
};

}  // namespace native
