// Whether two types look the same to a compiled library: what it takes in registers, on the stack and in memory.
#pragma once

#include <type_traits>

namespace musterd::gpu::test {

template <class T>
concept Complete = requires {
  sizeof(T);
};

template <class Ours, class Theirs>
struct SameAbi {
  static consteval bool value() {
    if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
      using To = std::remove_pointer_t<Ours>;
      using TheirTo = std::remove_pointer_t<Theirs>;
      if constexpr (std::is_const_v<To> != std::is_const_v<TheirTo>) return false;
      else return SameAbi<std::remove_cv_t<To>, std::remove_cv_t<TheirTo>>::value();
    } else if constexpr (std::is_enum_v<Ours> || std::is_enum_v<Theirs>) {
      return is_whole<Ours> && is_whole<Theirs> && sizeof(Ours) == sizeof(Theirs);
    } else if constexpr (std::is_class_v<Ours> && std::is_class_v<Theirs>) {
      if constexpr (Complete<Ours> && Complete<Theirs>)
        return sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs) &&
               std::is_trivially_copyable_v<Ours> && std::is_trivially_copyable_v<Theirs>;
      else return !Complete<Ours> && !Complete<Theirs>;
    } else {
      return std::is_same_v<Ours, Theirs>;
    }
  }

 private:
  template <class T>
  static constexpr bool is_whole = std::is_enum_v<T> || std::is_integral_v<T>;
};

template <class Result, class... Arguments, class TheirResult, class... TheirArguments>
struct SameAbi<Result(Arguments...), TheirResult(TheirArguments...)> {
  static consteval bool value() {
    if constexpr (sizeof...(Arguments) != sizeof...(TheirArguments)) return false;
    else
      return SameAbi<Result, TheirResult>::value() &&
             (SameAbi<std::remove_cv_t<Arguments>, std::remove_cv_t<TheirArguments>>::value() && ...);
  }
};

template <class Ours, class Theirs>
inline constexpr bool same_abi = SameAbi<Ours, Theirs>::value();

// The comparison itself must be able to fail.
struct One {
  int value;
};
struct Two {
  long value;
};
enum class Small : int { zero };
static_assert(same_abi<int(One*, const void*), int(One*, const void*)>);
static_assert(same_abi<int(Small, struct Ours*), int(unsigned, struct Theirs*)>);
static_assert(!same_abi<int(int), int(int, int)>);
static_assert(!same_abi<int(int), void(int)>);
static_assert(!same_abi<int(unsigned), int(unsigned long)>);
static_assert(!same_abi<int(Small), int(long)>);
static_assert(!same_abi<int(void*), int(const void*)>);
static_assert(!same_abi<int(void*), int(void**)>);
static_assert(!same_abi<int(One), int(Two)>);
static_assert(!same_abi<int(One*), int(Two*)>);
static_assert(!same_abi<int(One*), int(struct Theirs*)>);

}  // namespace musterd::gpu::test
