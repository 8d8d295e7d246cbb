// SPDX-License-Identifier: Apache-2.0
// Rendering without gradients: a block of rays goes through all stages before the next one, so that
// nothing between the grids and the image leaves the processor's cache.
//
// Equations: `field/volume_rendering.py`, with which a test compares the results.

#include <cmath>

#include "encoding.h"
#include "interface.h"
#include "layers.h"
#include "parallel.h"
#include "sampling.h"
#include "scratch.h"
#include "vector.h"

namespace native {
namespace {

constexpr int kBlock = 64;   // rays
constexpr int kStep = 3;     // samples of a ray before those that are opaque drop out
constexpr int kHarmonics = 9;

constexpr int rounded(int count, int to) { return (count + to - 1) / to * to; }

struct Results {
  float* values;    // (rays, channels)
  float* distance;  // (rays)
  float* spread;    // (rays)
};

// A sample with weight.
struct Kept {
  float weight, distance;
};

class Block {
 public:
  Block(const Cells& cells, const Intervals& cuts, const Grid& grid, const Networks& networks,
        const Rays& rays, int64_t first, int count)
      : cells_(cells), cuts_(cuts), grid_(grid), networks_(networks), rays_(rays), first_(first),
        count_(count), samples_(rays.samples), inputs_(grid.levels * grid.features),
        raw_width_(networks.density[1].padded) {
    const int room = rounded(kBlock * kStep, kRows) + kRows;
    const int all_room = rounded(kBlock * samples_, kRows) + kRows;
    distances_ = scratch_.take<float>(kBlock * samples_);
    widths_ = scratch_.take<float>(kBlock * samples_);
    place_ = scratch_.take<float>(place_scratch(cuts));
    for (float*& axis : unit_) axis = scratch_.take<float>(room);
    step_width_ = scratch_.take<float>(room);
    alpha_ = scratch_.take<float>(room);
    encoded_ = scratch_.take<float>(static_cast<size_t>(room) * inputs_);
    raw_ = scratch_.take<float>(static_cast<size_t>(room) * raw_width_);
    hidden_ = scratch_.take<float>(kRows * widest());
    hidden2_ = scratch_.take<float>(kRows * widest());
    left_ = scratch_.take<float>(kBlock);
    active_ = scratch_.take<int32_t>(kBlock);
    kept_ = scratch_.take<Kept>(all_room);
    kept_ray_ = scratch_.take<int32_t>(all_room);
    features_ = scratch_.take<float>(static_cast<size_t>(all_room) * raw_width_);
    colours_ = scratch_.take<float>(static_cast<size_t>(all_room) * channels() + kLanes);
    starts_ = scratch_.take<float>(kBlock * networks.branch[0].padded);
  }

  void render(float exploring, const Results& out) {
    place_samples(exploring);
    for (int r = 0; r < count_; ++r) {
      left_[r] = 1.0f;
      active_[r] = r;
    }
    int active = count_, kept = 0;
    for (int k = 0; k < samples_ && active; k += kStep) {
      const int steps = samples_ - k < kStep ? samples_ - k : kStep;
      evaluate_density(k, steps, active);
      active = weigh(k, steps, active, kept);
    }
    evaluate_branch(kept);
    composite(kept, out);
  }

 private:
  int channels() const { return networks_.branch[networks_.layers - 1].outputs; }

  int widest() const {
    int found = networks_.density[0].padded;
    for (int i = 0; i < networks_.layers; ++i) {
      if (networks_.branch[i].padded > found) found = networks_.branch[i].padded;
    }
    return found;
  }

  const float* origin(int ray) const { return rays_.origins + 3 * (first_ + ray); }
  const float* direction(int ray) const { return rays_.directions + 3 * (first_ + ray); }

  void place_samples(float exploring) {
    for (int r = 0; r < count_; ++r) {
      const Line line(cells_, origin(r), direction(r));
      place(cells_, cuts_, line, exploring, samples_, nullptr, place_, distances_ + r * samples_,
            widths_ + r * samples_);
    }
  }

  // raw_ (active * steps, 1 + features) and alpha_ of the samples from k on.
  void evaluate_density(int k, int steps, int active) {
    const int rows = active * steps;
    int row = 0;
    for (int a = 0; a < active; ++a) {
      const int ray = active_[a];
      const Line line(cells_, origin(ray), direction(ray));
      for (int j = k; j < k + steps; ++j, ++row) {
        const float t = distances_[ray * samples_ + j];
        step_width_[row] = widths_[ray * samples_ + j];
        for (int i = 0; i < 3; ++i) unit_[i][row] = line.origin[i] + t * line.direction[i];
      }
    }
    for (int i = 0; i < rows; i += kLanes) {
      const Unit unit = contract(load(unit_[0] + i), load(unit_[1] + i), load(unit_[2] + i));
      store(unit_[0] + i, unit.x);
      store(unit_[1] + i, unit.y);
      store(unit_[2] + i, unit.z);
    }
    encode(grid_, unit_[0], unit_[1], unit_[2], rows, encoded_, inputs_);
    for (int i = 0; i < rows; i += kRows) {
      apply<true>(networks_.density[0], encoded_ + static_cast<int64_t>(i) * inputs_, inputs_,
                  hidden_);
      apply<false>(networks_.density[1], hidden_, networks_.density[0].padded,
                   raw_ + static_cast<int64_t>(i) * raw_width_);
    }
    for (int i = 0; i < rows; ++i) alpha_[i] = raw_[i * raw_width_];
    const vf bias = all(networks_.bias), scale = all(networks_.inverse_scale);
    for (int i = 0; i < rows; i += kLanes) {
      const vf exponent = min(max(load(alpha_ + i) + bias, all(-15.0f)), all(11.0f));
      const vf depth = exponential(exponent) * scale * load(step_width_ + i);
      store(alpha_ + i, all(1.0f) - exponential(-depth));
    }
  }

  // Go on along the rays, keep what has weight; returns how many rays are not opaque yet. With no
  // more light than `negligible` left, no sample behind can count.
  int weigh(int k, int steps, int active, int& kept) {
    int remaining = 0, row = 0;
    for (int a = 0; a < active; ++a) {
      const int ray = active_[a];
      float left = left_[ray];
      for (int j = k; j < k + steps; ++j, ++row) {
        const float weight = j == samples_ - 1 ? left : left * alpha_[row];
        left -= weight;
        if (weight > networks_.negligible) {
          kept_[kept] = {weight, distances_[ray * samples_ + j]};
          kept_ray_[kept] = ray;
          memcpy(features_ + static_cast<int64_t>(kept) * raw_width_,
                 raw_ + static_cast<int64_t>(row) * raw_width_, raw_width_ * sizeof(float));
          ++kept;
        }
      }
      left_[ray] = left;
      if (left > networks_.negligible) active_[remaining++] = ray;
    }
    return remaining;
  }

  // colours_ (kept, channels) of the samples with weight.
  void evaluate_branch(int kept) {
    const Layer* layers = networks_.branch;
    const bool sees_direction = networks_.direction.inputs > 0;
    if (sees_direction) add_directions();
    for (int i = 0; i < kRows; ++i) kept_ray_[kept + i] = 0;
    for (int i = 0; i < kept; i += kRows) {
      const float* x = features_ + static_cast<int64_t>(i) * raw_width_ + 1;
      if (sees_direction) {
        apply<true>(layers[0], x, raw_width_, hidden_, starts_, kept_ray_ + i);
      } else {
        apply<true>(layers[0], x, raw_width_, hidden_);
      }
      const float* units = hidden_;
      if (networks_.layers == 3) {
        apply<true>(layers[1], hidden_, layers[0].padded, hidden2_);
        units = hidden2_;
      }
      const int width = layers[networks_.layers - 2].padded;
      const int rows = kept - i < kRows ? kept - i : kRows;
      apply_narrow(layers[networks_.layers - 1], units, width, rows, colours_ + i * channels());
    }
    for (int i = 0; i < kept * channels(); i += kLanes) {
      store(colours_ + i, all(1.0f) / (all(1.0f) + exponential(-load(colours_ + i))));
    }
  }

  // Where the first layer of the branch starts for each ray: its bias and what the direction adds,
  // by real spherical harmonics to degree 2 (`radiance_field.spherical_harmonics`).
  void add_directions() {
    const Layer& layer = networks_.direction;
    for (int r = 0; r < count_; ++r) {
      const float x = direction(r)[0], y = direction(r)[1], z = direction(r)[2];
      const float harmonics[kHarmonics] = {1.0f,  x,     y,             z, x * y, y * z,
                                           z * x, x * x - y * y, 3.0f * z * z - 1.0f};
      for (int c = 0; c < layer.padded; c += kLanes) {
        vf total = load(networks_.branch[0].bias + c);
        for (int i = 0; i < kHarmonics; ++i) {
          total = fma(all(harmonics[i]), load(layer.weight + i * layer.padded + c), total);
        }
        store(starts_ + r * layer.padded + c, total);
      }
    }
  }

  void composite(int kept, const Results& out) {
    const int width = channels();
    float* values = out.values + first_ * width;
    float* mean = out.distance + first_;
    float* spread = out.spread + first_;
    float* mass = left_;
    for (int i = 0; i < count_ * width; ++i) values[i] = 0.0f;
    for (int r = 0; r < count_; ++r) mass[r] = mean[r] = spread[r] = 0.0f;
    for (int i = 0; i < kept; ++i) {
      const int ray = kept_ray_[i];
      const float weight = kept_[i].weight;
      mass[ray] += weight;
      mean[ray] += weight * kept_[i].distance;
      for (int c = 0; c < width; ++c) values[ray * width + c] += weight * colours_[i * width + c];
    }
    for (int r = 0; r < count_; ++r) {
      mass[r] = 1.0f / mass[r];
      mean[r] *= mass[r];
      for (int c = 0; c < width; ++c) values[r * width + c] *= mass[r];
    }
    for (int i = 0; i < kept; ++i) {
      const int ray = kept_ray_[i];
      const float off = kept_[i].distance - mean[ray];
      spread[ray] += kept_[i].weight * off * off;
    }
    for (int r = 0; r < count_; ++r) spread[r] = std::sqrt(spread[r] * mass[r]);
  }

  const Cells& cells_;
  const Intervals& cuts_;
  const Grid& grid_;
  const Networks& networks_;
  const Rays& rays_;
  const int64_t first_;
  const int count_, samples_, inputs_, raw_width_;
  Scratch scratch_;
  float *distances_, *widths_, *place_, *unit_[3], *step_width_, *alpha_, *encoded_, *raw_;
  float *hidden_, *hidden2_, *left_, *features_, *colours_, *starts_;
  int32_t *active_, *kept_ray_;
  Kept* kept_;
};

int64_t blocks_of(int64_t rays) { return (rays + kBlock - 1) / kBlock; }

int count_of(int64_t rays, int64_t block) {
  const int64_t left = rays - block * kBlock;
  return static_cast<int>(left < kBlock ? left : kBlock);
}

}  // namespace
}  // namespace native

using namespace native;

// Render one branch; values (rays, channels), distance and spread (rays) are written.
extern "C" NATIVE_EXPORT void native_render(const Cells* cells, const Grid* grid,
                                            const Networks* networks, const Rays* rays,
                                            float exploring, int threads, float* values,
                                            float* distance, float* spread) {
  const Intervals cuts(*cells);
  const Results out = {values, distance, spread};
  parallel(blocks_of(rays->rays), threads, [&](int64_t block) {
    Block(*cells, cuts, *grid, *networks, *rays, block * kBlock, count_of(rays->rays, block))
        .render(exploring, out);
  });
}

// Place samples: distances and widths (rays, samples); exploring (rays), jitter (rays, samples) or
// null.
extern "C" NATIVE_EXPORT void native_place(const Cells* cells, const Rays* rays,
                                           const float* exploring, const float* jitter,
                                           int threads, float* distances, float* widths) {
  const Intervals cuts(*cells);
  const int samples = rays->samples;
  parallel(blocks_of(rays->rays), threads, [&](int64_t block) {
    float* scratch = Scratch().take<float>(place_scratch(cuts));
    for (int64_t r = block * kBlock; r < block * kBlock + count_of(rays->rays, block); ++r) {
      const Line line(*cells, rays->origins + 3 * r, rays->directions + 3 * r);
      place(*cells, cuts, line, exploring[r], samples, jitter ? jitter + r * samples : nullptr,
            scratch, distances + r * samples, widths + r * samples);
    }
  });
}
