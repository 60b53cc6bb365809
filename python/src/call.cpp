#include "call.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "gil.hpp"
#include "signals.hpp"

namespace muster::python {

namespace {

std::atomic<std::uint64_t> last_call{0};

}  // namespace

struct Call::Handler {
  PyDataMem_Handler numpy{};  ///< must be first: NumPy gets a pointer to it
  ConnectionPtr connection;
  std::uint64_t id = ++last_call;
  std::uint64_t limit = 0;
  std::atomic<std::uint64_t> used{0};
  std::atomic<bool> over{false};
  nb::object previous;  ///< the handler that was there before this one
  Refusals refused;     ///< arrays that came from malloc

  /// Also true in a forked child: the call's memory belongs to the parent.
  [[nodiscard]] bool is_over() const { return over || connection->inherited(); }

  void note(const void* address, std::size_t bytes) noexcept {
    if (!is_over()) refused.add(address, bytes, used + bytes > limit ? NotStored::too_large : NotStored::full);
  }
};

/// The functions that NumPy calls: from any thread, and even long after the call has ended.
struct HandlerFunctions {
  using Handler = Call::Handler;

  static std::optional<detail::ArenaRegion> from_store(Handler& handler, std::size_t bytes) {
    if (handler.is_over() || handler.used + bytes > handler.limit) return std::nullopt;
    auto region = handler.connection->arena().allocate_here(bytes, handler.id);
    if (!region) region = handler.connection->arena().find(from_daemon(handler, bytes));
    // Counts the region's size: after a resize in place, NumPy returns another size than it asked for.
    if (region) handler.used += region->bytes;
    return region;
  }

  /// Does not wait for room: if the store is full, the array comes from malloc and is copied once.
  static std::byte* from_daemon(Handler& handler, std::size_t bytes) {
    const SignalsLeftPending left;
    const auto lease = [&] {
      auto address = handler.connection->arena().allocate(bytes, handler.id, std::chrono::nanoseconds(0));
      return address ? *address : nullptr;
    };
    return PyGILState_Check() ? unlocked(lease) : lease();
  }

  static void* allocate(void* context, std::size_t bytes) {
    auto& handler = *static_cast<Handler*>(context);
    if (const auto region = from_store(handler, bytes)) return region->address;
    void* address = std::malloc(std::max<std::size_t>(bytes, 1));
    handler.note(address, bytes);
    return address;
  }

  static void* allocate_zeroed(void* context, std::size_t count, std::size_t each) {
    std::size_t bytes = 0;
    if (__builtin_mul_overflow(count, each, &bytes)) return nullptr;
    auto& handler = *static_cast<Handler*>(context);
    // A region that was used before holds old bytes. A fresh one stays untouched, like calloc's memory: pages that
    // nobody writes cost nothing.
    if (const auto region = from_store(handler, bytes))
      return region->fresh ? region->address : std::memset(region->address, 0, bytes);
    void* address = std::calloc(std::max<std::size_t>(count, 1), std::max<std::size_t>(each, 1));
    handler.note(address, bytes);
    return address;
  }

  static void* reallocate(void* context, void* old, std::size_t bytes) {
    if (!old) return allocate(context, bytes);
    auto& handler = *static_cast<Handler*>(context);
    const auto region = handler.connection->arena().find(old);
    if (!region) return std::realloc(old, std::max<std::size_t>(bytes, 1));
    if (bytes <= region->bytes) return old;
    void* fresh = allocate(context, bytes);
    if (!fresh) return nullptr;
    std::memcpy(fresh, old, region->bytes);
    release(context, old, region->bytes);
    return fresh;
  }

  static void release(void* context, void* address, std::size_t /*bytes*/) {
    if (!address) return;
    auto& handler = *static_cast<Handler*>(context);
    const auto region = handler.connection->arena().find(address);
    if (!region) return std::free(address);
    handler.used -= std::min<std::uint64_t>(region->bytes, handler.used);
    handler.connection->arena().free(address);
  }
};

Call::Call(ConnectionPtr connection) : handler_(new Handler) {
  auto& numpy = handler_->numpy;
  std::strncpy(numpy.name, "muster", sizeof numpy.name - 1);
  numpy.version = 1;
  numpy.allocator = {handler_, HandlerFunctions::allocate, HandlerFunctions::allocate_zeroed,
                     HandlerFunctions::reallocate, HandlerFunctions::release};
  handler_->limit = share_of_call(connection->welcome().memory_bytes());
  handler_->connection = std::move(connection);
  capsule_ = nb::steal(PyCapsule_New(&handler_->numpy, "mem_handler", [](PyObject* capsule) {
    delete reinterpret_cast<Handler*>(PyCapsule_GetPointer(capsule, "mem_handler"));
  }));
  if (!capsule_.is_valid()) throw nb::python_error();
}

Call::~Call() { leave(); }

void Call::enter() {
  handler_->previous = nb::steal(PyDataMem_SetHandler(capsule_.ptr()));
  if (!handler_->previous.is_valid()) throw nb::python_error();
}

/// Coroutines that are driven by hand share a context, and need not end in the order of their calls. A call that is not
/// the latest one leaves the handler to those that came after it.
void Call::leave() {
  const bool was_over = handler_->over.exchange(true);
  if (was_over || !handler_->previous.is_valid()) return;
  nb::object current = nb::steal(PyDataMem_GetHandler());
  if (current.ptr() != capsule_.ptr()) return;
  nb::object alive = handler_->previous;
  for (const Handler* before = of_a_call(alive); before && before->over; before = of_a_call(alive))
    alive = before->previous;
  nb::object ours = nb::steal(PyDataMem_SetHandler(alive.ptr()));
}

/// Null if the handler is not one of a decorated call.
const Call::Handler* Call::of_a_call(nb::handle capsule) {
  const auto* numpy = static_cast<const PyDataMem_Handler*>(PyCapsule_GetPointer(capsule.ptr(), "mem_handler"));
  if (!numpy) throw nb::python_error();
  return numpy->allocator.malloc == HandlerFunctions::allocate ? reinterpret_cast<const Handler*>(numpy) : nullptr;
}

NotStored Call::why_not_stored(const void* data) const { return handler_->refused.why(data); }

std::uint64_t Call::id() const { return handler_->id; }
std::uint64_t Call::limit() const { return handler_->limit; }
const ConnectionPtr& Call::connection() const { return handler_->connection; }

}  // namespace muster::python
