#include "over_devices.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "reference.hpp"

namespace musterd::testing {

using muster::DType;
using muster::ReduceOp;

namespace {

Tensor read(DType dtype, std::uint64_t count, const Place& place) {
  const std::int64_t shape[]{static_cast<std::int64_t>(count)};
  return decode(dtype, shape, host_address(place));
}

void write(const Tensor& tensor, const Place& place) {
  const Array array = encode(tensor);
  std::memcpy(host_address(place), array.bytes.data(), array.bytes.size());
}

/// What is read back is what the dtype can say of it.
Tensor rounded(const Tensor& tensor) { return decode(tensor.dtype, tensor.shape, encode(tensor).bytes.data()); }

/// A sum in the dtype of the mean, divided by this number.
Tensor mean_of(const std::vector<Tensor>& tensors, double divisor) {
  Tensor mean = tensors.front();
  mean.dtype = *muster::result_dtype(mean.dtype, ReduceOp::mean);
  for (std::size_t i = 0; i < mean.values.size(); ++i) {
    mean.values[i] = 0;
    for (const auto& tensor : tensors) mean.values[i] += tensor.values[i];
    mean.values[i] /= divisor;
  }
  return rounded(mean);
}

/// `place_of`: where an input lies.
template <class PlaceOf>
void run(const Fold& each, const Job& job, const PlaceOf& place_of) {
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < each.ranks; ++i)
    inputs.push_back(read(each.dtype, each.count, place_of(each.first_input + i)));
  const auto folded = [&](std::size_t ranks) {
    const std::vector<Tensor> some(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(ranks));
    const bool divides = each.op == ReduceOp::mean && each.divisor != 0;
    return divides ? mean_of(some, each.divisor) : fold(each.op, some);
  };
  const std::size_t outputs = std::max(each.prefixes, 1U);
  std::vector<Tensor> results;  // an output may be an input
  for (std::size_t i = 0; i < outputs; ++i) results.push_back(folded(each.ranks - outputs + 1 + i));
  for (std::size_t i = 0; i < outputs; ++i) write(results[i], job.outputs[each.output + i] + each.offset);
}

Place place_of(const Source& source, const Job& job) {
  return source.given.memory ? source.given : job.outputs[source.output] + source.offset;
}

void run(const Exchange& each, const Job& job) {
  const auto place_of = [&](std::size_t device) {
    const auto& part = job.work.parts[each.first_part + device];
    return job.outputs[part.output] + part.offset;
  };
  std::vector<Tensor> given;
  for (std::size_t device = 0; device < job.devices.size(); ++device) {
    const auto& input = job.work.parts[each.first_part + device].given;
    given.push_back(read(each.dtype, each.count, input.memory ? input : place_of(device)));
  }
  Tensor result = fold(each.op, given);
  if (each.divisor != 1) result = mean_of({result}, each.divisor);
  for (std::size_t device = 0; device < job.devices.size(); ++device)
    if (each.root == Exchange::everyone || each.root == device) write(result, place_of(device));
}

}  // namespace

void run_over_devices(const Job& job) {
  const Work& work = job.work;
  for (const auto& each : work.folds) run(each, job, [&](std::size_t input) { return work.inputs[input]; });
  for (const auto& each : work.copies)
    std::memcpy(host_address(job.outputs[each.output]) + each.offset, host_address(each.source), each.bytes);
  for (const auto& each : work.exchanges) run(each, job);
  for (const auto& each : work.transfers)
    std::memcpy(host_address(job.outputs[each.output]) + each.offset, host_address(place_of(each.source, job)),
                each.bytes);
  for (const auto& each : work.last_folds)
    run(each, job, [&](std::size_t input) { return place_of(work.last_inputs[input], job); });
}

}  // namespace musterd::testing
