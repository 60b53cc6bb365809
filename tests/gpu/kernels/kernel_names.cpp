// Prints the name of every kernel that a launch can ask for, one a line, for check_image.py.
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "daemon/gpu/kernels/launch.hpp"

namespace {

using namespace musterd::gpu::kernels;

constexpr Address somewhere = 4096;

class Names {
 public:
  void add(const muster::Result<Launch>& launch) {
    if (launch) all_.insert(launch.value().kernel);
  }
  void add_folds(muster::DType dtype, muster::ReduceOp op) {
    for (const std::size_t ranks : {std::size_t{1}, std::size_t{few_max}, std::size_t{few_max} + 1, inputs_max}) {
      const std::vector<Address> inputs(ranks, somewhere);
      for (const std::size_t outputs : {std::size_t{1}, ranks})
        add(launch_fold({dtype, op, 1, inputs, std::span(inputs).first(outputs)}, {}));
    }
  }
  void print() const {
    for (const std::string& name : all_) std::puts(name.c_str());
  }

 private:
  std::set<std::string> all_;
};

}  // namespace

int main() {
  Names names;
  for (std::size_t i = 0; i < muster::dtype_count; ++i) {
    const auto dtype = static_cast<muster::DType>(i);
    for (std::size_t op = 0; op < muster::reduce_op_count; ++op)
      names.add_folds(dtype, static_cast<muster::ReduceOp>(op));
    names.add(launch_premultiply({dtype, 1.0, 1, somewhere, somewhere}, {}));
    names.add(launch_premultiply({dtype, std::int64_t{1}, 1, somewhere, somewhere}, {}));
  }
  const Piece piece{somewhere, somewhere, 1};
  names.add(launch_copy(std::span(&piece, 1), {}));
  names.print();
}
