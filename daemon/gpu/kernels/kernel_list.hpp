// Every fold that has kernels, once: MUSTERD_GPU_FOLDS(X) is a list of X(name, Op, Out, In), where In may stand in
// parentheses. The names of kernels come from here, for the sources of the GPU as for those that launch them.
//
// There are fewer of them than pairs of dtype and op, as some give the same bits: a sum of integers doesn't ask for
// their sign, `band` and `min` of bool are its `land`, and a sum of complex numbers is one of their parts. launch.cpp
// knows which fold serves which pair.
#pragma once

#define MUSTERD_GPU_INTEGER_FOLDS(X)                               \
  X(sum_u8, Add, Same<std::uint8_t>, Plain<std::uint8_t>)          \
  X(prod_u8, Multiply, Same<std::uint8_t>, Plain<std::uint8_t>)    \
  X(min_i8, Smallest, Same<std::int8_t>, Plain<std::int8_t>)       \
  X(max_i8, Largest, Same<std::int8_t>, Plain<std::int8_t>)        \
  X(min_u8, Smallest, Same<std::uint8_t>, Plain<std::uint8_t>)     \
  X(max_u8, Largest, Same<std::uint8_t>, Plain<std::uint8_t>)      \
  X(sum_u16, Add, Same<std::uint16_t>, Plain<std::uint16_t>)       \
  X(prod_u16, Multiply, Same<std::uint16_t>, Plain<std::uint16_t>) \
  X(min_i16, Smallest, Same<std::int16_t>, Plain<std::int16_t>)    \
  X(max_i16, Largest, Same<std::int16_t>, Plain<std::int16_t>)     \
  X(min_u16, Smallest, Same<std::uint16_t>, Plain<std::uint16_t>)  \
  X(max_u16, Largest, Same<std::uint16_t>, Plain<std::uint16_t>)   \
  X(sum_u32, Add, Same<std::uint32_t>, Plain<std::uint32_t>)       \
  X(prod_u32, Multiply, Same<std::uint32_t>, Plain<std::uint32_t>) \
  X(min_i32, Smallest, Same<std::int32_t>, Plain<std::int32_t>)    \
  X(max_i32, Largest, Same<std::int32_t>, Plain<std::int32_t>)     \
  X(min_u32, Smallest, Same<std::uint32_t>, Plain<std::uint32_t>)  \
  X(max_u32, Largest, Same<std::uint32_t>, Plain<std::uint32_t>)   \
  X(sum_u64, Add, Same<std::uint64_t>, Plain<std::uint64_t>)       \
  X(prod_u64, Multiply, Same<std::uint64_t>, Plain<std::uint64_t>) \
  X(min_i64, Smallest, Same<std::int64_t>, Plain<std::int64_t>)    \
  X(max_i64, Largest, Same<std::int64_t>, Plain<std::int64_t>)     \
  X(min_u64, Smallest, Same<std::uint64_t>, Plain<std::uint64_t>)  \
  X(max_u64, Largest, Same<std::uint64_t>, Plain<std::uint64_t>)

#define MUSTERD_GPU_WIDENING_FOLDS(X)                                                \
  X(mean_i8, Add, Mean<double>, Converted<std::int8_t, double>)                      \
  X(mean_u8, Add, Mean<double>, Converted<std::uint8_t, double>)                     \
  X(mean_i16, Add, Mean<double>, Converted<std::int16_t, double>)                    \
  X(mean_u16, Add, Mean<double>, Converted<std::uint16_t, double>)                   \
  X(mean_i32, Add, Mean<double>, Converted<std::int32_t, double>)                    \
  X(mean_u32, Add, Mean<double>, Converted<std::uint32_t, double>)                   \
  X(mean_i64, Add, Mean<double>, Converted<std::int64_t, double>)                    \
  X(mean_u64, Add, Mean<double>, Converted<std::uint64_t, double>)                   \
  X(sum_bool, Add, Same<std::uint64_t>, Truth<std::uint8_t, 0, std::uint64_t>)       \
  X(prod_bool, Multiply, Same<std::uint64_t>, Truth<std::uint8_t, 0, std::uint64_t>) \
  X(mean_bool, Add, Mean<double>, Truth<std::uint8_t, 0, double>)

#define MUSTERD_GPU_FLOAT_FOLDS(X)                                   \
  X(sum_f16, Add, ToFloat16, Float16)                                \
  X(prod_f16, Multiply, ToFloat16, Float16)                          \
  X(min_f16, Smallest, ToFloat16, Float16)                           \
  X(max_f16, Largest, ToFloat16, Float16)                            \
  X(mean_f16, Add, MeanThen<ToFloat16>, Float16)                     \
  X(sum_bf16, Add, ToBfloat16, Bfloat16)                             \
  X(prod_bf16, Multiply, ToBfloat16, Bfloat16)                       \
  X(min_bf16, Smallest, ToBfloat16, Bfloat16)                        \
  X(max_bf16, Largest, ToBfloat16, Bfloat16)                         \
  X(mean_bf16, Add, MeanThen<ToBfloat16>, Bfloat16)                  \
  X(sum_f32, Add, Same<float>, Plain<float>)                         \
  X(prod_f32, Multiply, Same<float>, Plain<float>)                   \
  X(min_f32, Smallest, Same<float>, Plain<float>)                    \
  X(max_f32, Largest, Same<float>, Plain<float>)                     \
  X(mean_f32, Add, Mean<float>, Plain<float>)                        \
  X(sum_f64, Add, Same<double>, Plain<double>)                       \
  X(prod_f64, Multiply, Same<double>, Plain<double>)                 \
  X(min_f64, Smallest, Same<double>, Plain<double>)                  \
  X(max_f64, Largest, Same<double>, Plain<double>)                   \
  X(mean_f64, Add, Mean<double>, Plain<double>)                      \
  X(prod_c64, Multiply, Same<Complex<float>>, Plain<Complex<float>>) \
  X(prod_c128, Multiply, Same<Complex<double>>, Plain<Complex<double>>)

#define MUSTERD_GPU_LOGIC_FOLDS(X)                                               \
  X(and_bits, And, Same<std::uint8_t>, Plain<std::uint8_t>)                      \
  X(or_bits, Or, Same<std::uint8_t>, Plain<std::uint8_t>)                        \
  X(xor_bits, Xor, Same<std::uint8_t>, Plain<std::uint8_t>)                      \
  X(land_u8, And, Same<std::uint8_t>, Truth<std::uint8_t, 0>)                    \
  X(lor_u8, Or, Same<std::uint8_t>, Truth<std::uint8_t, 0>)                      \
  X(xor_bool, Xor, Same<std::uint8_t>, Truth<std::uint8_t, 0>)                   \
  X(land_u16, And, Same<std::uint8_t>, Truth<std::uint16_t, 0>)                  \
  X(lor_u16, Or, Same<std::uint8_t>, Truth<std::uint16_t, 0>)                    \
  X(land_u32, And, Same<std::uint8_t>, Truth<std::uint32_t, 0>)                  \
  X(lor_u32, Or, Same<std::uint8_t>, Truth<std::uint32_t, 0>)                    \
  X(land_u64, And, Same<std::uint8_t>, Truth<std::uint64_t, 0>)                  \
  X(lor_u64, Or, Same<std::uint8_t>, Truth<std::uint64_t, 0>)                    \
  X(land_half, And, Same<std::uint8_t>, Truth<std::uint16_t, 0x8000>)            \
  X(lor_half, Or, Same<std::uint8_t>, Truth<std::uint16_t, 0x8000>)              \
  X(land_f32, And, Same<std::uint8_t>, Truth<std::uint32_t, 0x80000000>)         \
  X(lor_f32, Or, Same<std::uint8_t>, Truth<std::uint32_t, 0x80000000>)           \
  X(land_f64, And, Same<std::uint8_t>, Truth<std::uint64_t, 0x8000000000000000>) \
  X(lor_f64, Or, Same<std::uint8_t>, Truth<std::uint64_t, 0x8000000000000000>)   \
  X(land_c64, And, Same<std::uint8_t>, Truth<std::uint64_t, 0x8000000080000000>) \
  X(lor_c64, Or, Same<std::uint8_t>, Truth<std::uint64_t, 0x8000000080000000>)   \
  X(land_c128, And, Same<std::uint8_t>, TruthOfComplex128)                       \
  X(lor_c128, Or, Same<std::uint8_t>, TruthOfComplex128)

#define MUSTERD_GPU_FOLDS(X)    \
  MUSTERD_GPU_INTEGER_FOLDS(X)  \
  MUSTERD_GPU_WIDENING_FOLDS(X) \
  MUSTERD_GPU_FLOAT_FOLDS(X)    \
  MUSTERD_GPU_LOGIC_FOLDS(X)

/// Premultiplied copies: X(name, Out, In).
#define MUSTERD_GPU_PREMULTIPLIES(X)                \
  X(u8, Same<std::uint8_t>, Plain<std::uint8_t>)    \
  X(u16, Same<std::uint16_t>, Plain<std::uint16_t>) \
  X(u32, Same<std::uint32_t>, Plain<std::uint32_t>) \
  X(u64, Same<std::uint64_t>, Plain<std::uint64_t>) \
  X(f16, ToFloat16, Float16)                        \
  X(bf16, ToBfloat16, Bfloat16)                     \
  X(f32, Same<float>, Plain<float>)                 \
  X(f64, Same<double>, Plain<double>)
