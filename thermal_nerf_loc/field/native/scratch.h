// SPDX-License-Identifier: Apache-2.0
// Memory for one block of work: kept by its thread, so that no block asks the system for pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace native {

constexpr size_t kCacheLine = 64;

inline void* aligned(size_t bytes) {
  void* found = nullptr;
  if (posix_memalign(&found, kCacheLine, bytes ? bytes : kCacheLine) != 0) abort();
  return found;
}

// An array of its own, aligned to cache lines.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : data_(static_cast<T*>(aligned(count * sizeof(T)))) {}
  ~Buffer() { free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_;
};

// Arrays of this thread, one after the other; they hold what an earlier block left in them (finite
// numbers: memory begins as zeros).
class Scratch {
 public:
  template <class T>
  T* take(size_t count) {
    static_assert(std::is_trivial<T>::value, "scratch holds plain numbers");
    const size_t bytes = (count * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
    Piece& piece = pieces()[used_++];
    if (piece.bytes < bytes) {
      free(piece.data);
      piece.data = aligned(bytes);
      piece.bytes = bytes;
      memset(piece.data, 0, bytes);
    }
    return static_cast<T*>(piece.data);
  }

 private:
  struct Piece {
    void* data;
    size_t bytes;
  };

  static constexpr int kPieces = 32;

  struct Pieces {
    Piece all[kPieces] = {};
    ~Pieces() {
      for (Piece& piece : all) free(piece.data);
    }
  };

  static Piece* pieces() {
    static thread_local Pieces mine;
    return mine.all;
  }

  int used_ = 0;
};

}  // namespace native
