// The loops of the folds. Each reads every input once, keeps what it has folded in registers, and writes each output
// once. No thread waits for another one, so the host can run threads one after the other.
#pragma once

#include "daemon/gpu/kernels/memory.cuh"

namespace musterd::gpu::kernels {

/// Which thread this is, of how many. A thread takes every `threads`-th element or vector.
struct Index {
  std::uint64_t thread;
  std::uint64_t threads;
};

/// `In` says what an element is while it is folded, `Op` folds two, `Out` turns the last one into an element.
template <class In_, class Op, class Out_>
struct Fold {
  using In = typename In_::Element;
  using Out = typename Out_::Element;
  using Folded = typename In_::Folded;
  static constexpr std::uint32_t lanes = vector_bytes / sizeof(In);
  using Row = kernels::Row<Folded, lanes>;
  /// Inputs of a fold of many whose loads are on their way together; fewer where a row takes many registers.
  static constexpr std::uint32_t block = sizeof(Row) < 128 ? few_max : few_max / 2;

  static MUSTERD_GPU_CODE Folded first(In element) { return In_::load(element); }
  static MUSTERD_GPU_CODE Folded next(Folded folded, In element) { return Op::fold(folded, In_::load(element)); }
  static MUSTERD_GPU_CODE Out finish(Folded folded, std::uint32_t divisor) { return Out_::finish(folded, divisor); }

  static MUSTERD_GPU_CODE void first(Row& folded, Vector vector) {
    const auto elements = elements_of<In>(vector);
    MUSTERD_GPU_UNROLL
    for (std::uint32_t i = 0; i < lanes; ++i) folded.items[i] = first(elements.items[i]);
  }
  static MUSTERD_GPU_CODE void next(Row& folded, Vector vector) {
    const auto elements = elements_of<In>(vector);
    MUSTERD_GPU_UNROLL
    for (std::uint32_t i = 0; i < lanes; ++i) folded.items[i] = next(folded.items[i], elements.items[i]);
  }
  static MUSTERD_GPU_CODE void store(Address to, const Row& folded, std::uint32_t divisor, bool aligned) {
    kernels::Row<Out, lanes> row;
    MUSTERD_GPU_UNROLL
    for (std::uint32_t i = 0; i < lanes; ++i) row.items[i] = finish(folded.items[i], divisor);
    if (aligned) return store_row(to, row);
    MUSTERD_GPU_UNROLL
    for (std::uint32_t i = 0; i < lanes; ++i) store_aligned(to + i * sizeof(Out), row.items[i]);
  }
};

/// Calls `vector(i)` for each vector that starts at element i, and `element(i)` for each element that is in none.
template <std::uint32_t lanes, class OnVector, class OnElement>
MUSTERD_GPU_CODE void walk(const Walk& how, Index index, OnVector on_vector, OnElement on_element) {
  for (std::uint64_t i = index.thread; i < how.vectors; i += index.threads) on_vector(how.head + i * lanes);
  const std::uint64_t in_vectors = how.vectors * lanes;
  for (std::uint64_t i = index.thread; i < how.count - in_vectors; i += index.threads)
    on_element(i < how.head ? i : i + in_vectors);
}

/// At most few_max inputs: all loads of a vector are on their way before the first is needed.
template <class F>
MUSTERD_GPU_CODE void fold_few(const FewArguments& call, Index index) {
  using In = typename F::In;
  using Out = typename F::Out;
  walk<F::lanes>(
      call.walk, index,
      [&](std::uint64_t i) {
        Vector loaded[few_max];
        MUSTERD_GPU_UNROLL
        for (std::uint32_t rank = 0; rank < few_max; ++rank)
          if (rank < call.ranks) loaded[rank] = load_aligned<Vector>(call.inputs[rank] + i * sizeof(In));
        typename F::Row folded;
        F::first(folded, loaded[0]);
        MUSTERD_GPU_UNROLL
        for (std::uint32_t rank = 1; rank < few_max; ++rank)
          if (rank < call.ranks) F::next(folded, loaded[rank]);
        F::store(call.output + i * sizeof(Out), folded, call.divisor, call.walk.aligned_outputs != 0);
      },
      [&](std::uint64_t i) {
        typename F::Folded folded = F::first(load_element<In>(call.inputs[0] + i * sizeof(In)));
        for (std::uint32_t rank = 1; rank < call.ranks; ++rank)
          folded = F::next(folded, load_element<In>(call.inputs[rank] + i * sizeof(In)));
        store_element<Out>(call.output + i * sizeof(Out), F::finish(folded, call.divisor));
      });
}

MUSTERD_GPU_CODE Address address_of(const ManyArguments& call, std::uint32_t which) {
  if (call.table != 0) return load_aligned<Address>(call.table + which * sizeof(Address));
  return call.carried[which];
}

/// The addresses of a block of inputs, all asked for before the first is needed.
template <std::uint32_t size>
MUSTERD_GPU_CODE void load_addresses(const ManyArguments& call, std::uint32_t rank, Address (&addresses)[size]) {
  if (call.table != 0) {
    MUSTERD_GPU_UNROLL
    for (std::uint32_t k = 0; k < size; ++k)
      if (rank + k < call.ranks) addresses[k] = load_aligned<Address>(call.table + (rank + k) * sizeof(Address));
  } else {
    MUSTERD_GPU_UNROLL
    for (std::uint32_t k = 0; k < size; ++k)
      if (rank + k < call.ranks) addresses[k] = call.carried[rank + k];
  }
}

/// Any number of inputs, in blocks.
template <class F>
MUSTERD_GPU_CODE void fold_many(const ManyArguments& call, Index index) {
  using In = typename F::In;
  using Out = typename F::Out;
  walk<F::lanes>(
      call.walk, index,
      [&](std::uint64_t i) {
        typename F::Row folded;
        F::first(folded, load_aligned<Vector>(address_of(call, 0) + i * sizeof(In)));
        for (std::uint32_t rank = 1; rank < call.ranks; rank += F::block) {
          Address addresses[F::block];
          load_addresses(call, rank, addresses);
          Vector loaded[F::block];
          MUSTERD_GPU_UNROLL
          for (std::uint32_t k = 0; k < F::block; ++k)
            if (rank + k < call.ranks) loaded[k] = load_aligned<Vector>(addresses[k] + i * sizeof(In));
          MUSTERD_GPU_UNROLL
          for (std::uint32_t k = 0; k < F::block; ++k)
            if (rank + k < call.ranks) F::next(folded, loaded[k]);
        }
        F::store(address_of(call, call.ranks) + i * sizeof(Out), folded, call.divisor, call.walk.aligned_outputs != 0);
      },
      [&](std::uint64_t i) {
        typename F::Folded folded = F::first(load_element<In>(address_of(call, 0) + i * sizeof(In)));
        for (std::uint32_t rank = 1; rank < call.ranks; ++rank)
          folded = F::next(folded, load_element<In>(address_of(call, rank) + i * sizeof(In)));
        store_element<Out>(address_of(call, call.ranks) + i * sizeof(Out), F::finish(folded, call.divisor));
      });
}

/// Any number of inputs, with a store after each of the last ones. The next input is on its way while one is folded.
template <class F>
MUSTERD_GPU_CODE void scan(const ManyArguments& call, Index index) {
  using In = typename F::In;
  using Out = typename F::Out;
  const std::uint32_t first_output = call.ranks - call.outputs;
  walk<F::lanes>(
      call.walk, index,
      [&](std::uint64_t i) {
        const auto load = [&](std::uint32_t rank) {
          return load_aligned<Vector>(address_of(call, rank) + i * sizeof(In));
        };
        const auto store = [&](std::uint32_t rank, const typename F::Row& folded) {
          if (rank < first_output) return;
          const Address output = address_of(call, call.ranks + rank - first_output);
          F::store(output + i * sizeof(Out), folded, rank + 1, call.walk.aligned_outputs != 0);
        };
        typename F::Row folded;
        Vector loaded = load(0);
        F::first(folded, loaded);
        for (std::uint32_t rank = 1; rank < call.ranks; ++rank) {
          loaded = load(rank);
          store(rank - 1, folded);
          F::next(folded, loaded);
        }
        store(call.ranks - 1, folded);
      },
      [&](std::uint64_t i) {
        typename F::Folded folded{};
        for (std::uint32_t rank = 0; rank < call.ranks; ++rank) {
          const In element = load_element<In>(address_of(call, rank) + i * sizeof(In));
          folded = rank == 0 ? F::first(element) : F::next(folded, element);
          if (rank < first_output) continue;
          const Address output = address_of(call, call.ranks + rank - first_output);
          store_element<Out>(output + i * sizeof(Out), F::finish(folded, rank + 1));
        }
      });
}

}  // namespace musterd::gpu::kernels
