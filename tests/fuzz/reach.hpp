// What the targets have in common: they count what a node does, and begin with seeds that are not empty.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "session/recorder.hpp"
#include "walk/reached.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t size_max);

namespace musterd::testing {

/// A Recorder that also counts answers and completions.
class CountingRecorder final : public Recorder {
 public:
  explicit CountingRecorder(Reached& reached) : reached_(reached) {}

  void send(ClientId client, std::span<const std::byte> frame, std::span<const int> fds) override {
    reached_.note("answer " + answer_text(*muster::ipc::wire::GetFrame(frame.data())));
    Recorder::send(client, frame, fds);
  }
  void complete(ClientId client, muster::ipc::CompletionType type, std::span<const std::byte> body) override {
    note_outcome(type, body);
    Recorder::complete(client, type, body);
  }

 private:
  void note_outcome(muster::ipc::CompletionType type, std::span<const std::byte> body) {
    using muster::ipc::CompletionType;
    if (type == CompletionType::seal_failed)
      return reached_.note("seal -> " +
                           std::string(muster::name(muster::ipc::read_seal_failed(body).value().error.code())));
    if (type == CompletionType::failed)
      return reached_.note("op -> " + std::string(muster::name(muster::ipc::read_failed(body).value().error.code())));
    reached_.note("told " + std::string(name(type)));
  }

  Reached& reached_;
};

/// Short inputs that are read as choices reach little, and inputs with one ancestor are much alike. So these are long,
/// and some are new.
inline std::size_t mutate_choices(std::uint8_t* data, std::size_t size, std::size_t size_max, unsigned seed) {
  std::minstd_rand random(seed);
  constexpr std::size_t enough = 256;
  if (size >= enough && random() % 4 != 0) return LLVMFuzzerMutate(data, size, size_max);
  const std::size_t kept = random() % 2 == 0 ? size : 0;
  const std::size_t longer = std::min(size_max, kept + 1 + random() % (4 * enough));
  if (longer > kept)
    std::generate(data + kept, data + longer, [&] { return static_cast<std::uint8_t>(random() >> 8); });
  return longer;
}

}  // namespace musterd::testing
