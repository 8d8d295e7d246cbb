// SPDX-License-Identifier: Apache-2.0
// Loops over blocks on several threads that sleep while there is no work.
#pragma once

#include <cstdint>

namespace native {

// Call work(context, block) for all blocks below `blocks`, on at most `threads` threads of which
// the caller is one. Any number of threads may call this at a time.
void run_parallel(int64_t blocks, int threads, void (*work)(void*, int64_t), void* context);

template <class Work>
void parallel(int64_t blocks, int threads, const Work& work) {
  run_parallel(
      blocks, threads,
      [](void* context, int64_t block) { (*static_cast<const Work*>(context))(block); },
      const_cast<void*>(static_cast<const void*>(&work)));
}

}  // namespace native
