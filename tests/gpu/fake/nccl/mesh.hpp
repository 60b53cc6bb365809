// The connections of one rank with all others of its communicator, and a thread that moves frames through them. Nobody
// who sends a frame waits, so a rank that doesn't read keeps nobody from anything else.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "numbers.hpp"
#include "socket.hpp"

namespace fake_nccl {

enum class Topic : std::uint32_t {
  control,     // what ranks tell each other to make communicators
  connect,     // that a rank has called its first collective
  grow,        // the unique id of a grow
  collective,  // an op's input
  message,     // of a send
  taken,       // that a message has been received
  bye,         // that a rank has finalized its communicator
  count
};

/// What must be the same on all ranks of a collective, and at both ends of a message.
struct Signature {
  std::uint64_t sequence = 0;
  std::uint64_t count = 0;
  std::int32_t call = 0;
  std::int32_t type = 0;
  std::int32_t op = 0;
  std::int32_t root = 0;
  friend bool operator==(const Signature&, const Signature&) = default;
};

struct Frame {
  Topic topic = Topic::control;
  Signature signature;
  Bytes payload;
};

class Mesh {
 public:
  /// `sockets` has one for each rank, and none for this one.
  Mesh(int rank, std::vector<Socket> sockets, int device);
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;
  ~Mesh();

  /// Sends a frame, also to this rank itself.
  void post(int peer, Frame frame);
  /// Takes the next frame of this topic; nothing when it gives up.
  std::optional<Frame> take(int peer, Topic topic, const GiveUp& give_up);
  /// Whether the peer has closed the connection without a bye.
  [[nodiscard]] bool lost(int peer) const;
  [[nodiscard]] int ranks() const { return static_cast<int>(links_.size()); }
  /// Lets the waits of `take` ask again.
  void wake();
  /// Ends the thread; before that, everything is sent that was posted, unless `at_once`.
  void close(bool at_once);

 private:
  struct Link {
    Socket socket;
    bool open = false;
    bool bye = false;
    bool lost = false;
    Bytes in;
    std::deque<Bytes> out;
    std::size_t sent = 0;  // of the first in `out`
    std::map<Topic, std::deque<Frame>> inbox;
  };

  void serve();
  [[nodiscard]] bool must_go_on() const;
  void send_some(Link& link);
  void receive_some(Link& link);
  void unpack(Link& link);
  static void end(Link& link);

  int rank_;
  std::vector<Link> links_;
  int bell_ = -1;
  bool closing_ = false;
  bool at_once_ = false;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Counted> counted_;
  std::thread thread_;
};

}  // namespace fake_nccl
