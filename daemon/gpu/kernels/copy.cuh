// Copies: many pieces in one launch, and elements times a factor.
#pragma once

#include "daemon/gpu/kernels/fold.cuh"

namespace musterd::gpu::kernels {

/// Where a block is: `row` of `rows` takes every rows-th piece, and the threads of all blocks of a row share each
/// piece.
struct CopyIndex {
  Index index;
  std::uint64_t row;
  std::uint64_t rows;
};

template <class Word>
MUSTERD_GPU_CODE void copy_words(const Piece& piece, Index index) {
  const std::uint64_t before = (0 - piece.destination) % sizeof(Word);
  const std::uint64_t head = before < piece.bytes ? before : piece.bytes;
  const std::uint64_t words = (piece.bytes - head) / sizeof(Word);
  for (std::uint64_t i = index.thread; i < words; i += index.threads) {
    const std::uint64_t at_byte = head + i * sizeof(Word);
    store_aligned(piece.destination + at_byte, load_aligned<Word>(piece.source + at_byte));
  }
  const std::uint64_t in_words = words * sizeof(Word);
  for (std::uint64_t i = index.thread; i < piece.bytes - in_words; i += index.threads) {
    const std::uint64_t at_byte = i < head ? i : i + in_words;
    store_aligned(piece.destination + at_byte, load_aligned<std::uint8_t>(piece.source + at_byte));
  }
}

MUSTERD_GPU_CODE Piece piece_of(const CopyArguments& call, std::uint64_t which) {
  if (call.table == 0) return call.carried[which];
  const Address at = call.table + which * sizeof(Piece);
  return {load_aligned<Address>(at), load_aligned<Address>(at + 8), load_aligned<std::uint64_t>(at + 16)};
}

/// Copies in the largest words that both ends of a piece can be aligned to together.
MUSTERD_GPU_CODE void copy(const CopyArguments& call, CopyIndex index) {
  for (std::uint64_t i = index.row; i < call.pieces; i += index.rows) {
    const Piece piece = piece_of(call, i);
    const std::uint64_t apart = piece.source ^ piece.destination;
    if (apart % 16 == 0) copy_words<Vector>(piece, index.index);
    else if (apart % 8 == 0) copy_words<std::uint64_t>(piece, index.index);
    else if (apart % 4 == 0) copy_words<std::uint32_t>(piece, index.index);
    else if (apart % 2 == 0) copy_words<std::uint16_t>(piece, index.index);
    else copy_words<std::uint8_t>(piece, index.index);
  }
}

/// The factor of a premultiplied copy, from the bits of its argument.
MUSTERD_GPU_CODE void unpack(std::uint64_t bits, float& factor) {
  factor = same_bits<float>(static_cast<std::uint32_t>(bits));
}
MUSTERD_GPU_CODE void unpack(std::uint64_t bits, double& factor) { factor = same_bits<double>(bits); }
template <class T>
MUSTERD_GPU_CODE void unpack(std::uint64_t bits, T& factor) {
  factor = static_cast<T>(bits);
}

template <class F>
MUSTERD_GPU_CODE void premultiply(const PremultiplyArguments& call, Index index) {
  using Element = typename F::In;
  typename F::Folded factor;
  unpack(call.factor, factor);
  const auto times = [&](typename F::Folded value) { return Multiply::fold(value, factor); };
  walk<F::lanes>(
      call.walk, index,
      [&](std::uint64_t i) {
        typename F::Row row;
        F::first(row, load_aligned<Vector>(call.input + i * sizeof(Element)));
        MUSTERD_GPU_UNROLL
        for (std::uint32_t k = 0; k < F::lanes; ++k) row.items[k] = times(row.items[k]);
        F::store(call.output + i * sizeof(Element), row, 1, call.walk.aligned_outputs != 0);
      },
      [&](std::uint64_t i) {
        const Element element = load_element<Element>(call.input + i * sizeof(Element));
        store_element<Element>(call.output + i * sizeof(Element), F::finish(times(F::first(element)), 1));
      });
}

}  // namespace musterd::gpu::kernels
