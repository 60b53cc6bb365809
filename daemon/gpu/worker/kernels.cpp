#include "gpu/worker/kernels.hpp"

#include <algorithm>
#include <cstring>

#include "daemon/gpu/kernels/image.hpp"

namespace musterd::gpu {

using cuda::Status;
using muster::Code;
using muster::Error;
using muster::Result;

Status PinnedTable::fill(const std::vector<std::uint64_t>& table) {
  const std::size_t bytes = table.size() * sizeof(table[0]);
  if (const Status made = driver_->mem_host_alloc(&host_, bytes, cuda::host_alloc_device_map);
      made != Status::success) {
    host_ = nullptr;
    return made;
  }
  std::memcpy(host_, table.data(), bytes);
  return driver_->mem_host_get_device_pointer(&address_, host_, 0);
}

Result<void> Kernels::there() {
  if (!kernels::image().empty()) return {};
  return Error(Code::failed, std::string("nothing can be folded on a GPU: ") + kernels::image_missing(),
               "install a musterd with kernels, or build it where nvcc is");
}

kernels::Gpu Kernels::gpu() {
  if (multiprocessors_ == 0)
    driver_.device_get_attribute(&multiprocessors_, cuda::DeviceAttribute::multiprocessor_count, device_);
  return {static_cast<std::uint32_t>(std::max(multiprocessors_, 1))};
}

Kernels::Step Kernels::find(const char* kernel, cuda::Function& function) {
  if (const auto known = functions_.find(kernel); known != functions_.end()) {
    function = known->second;
    return {};
  }
  if (!module_) {
    const Status loaded = driver_.module_load_data_ex(&module_, kernels::image().data(), 0, nullptr, nullptr);
    if (loaded != Status::success) return {"cuModuleLoadDataEx", loaded};
  }
  const Status found = driver_.module_get_function(&function, module_, kernel);
  if (found != Status::success) return {"cuModuleGetFunction", found};
  functions_.emplace(kernel, function);
  return {};
}

Kernels::Step Kernels::launch(kernels::Launch& launch, cuda::Stream stream, std::vector<PinnedTable>& tables) {
  if (launch.is_empty()) return {};
  cuda::Function function = nullptr;
  if (const Step found = find(launch.kernel, function); found.status != Status::success) return found;
  if (!launch.table.empty()) {
    PinnedTable& table = tables.emplace_back(driver_);
    if (const Status filled = table.fill(launch.table); filled != Status::success)
      return {"to pin addresses for the GPU", filled};
    launch.set_table(table.address());
  }
  void* parameters[]{launch.parameter()};
  return {"cuLaunchKernel", driver_.launch_kernel(function, launch.blocks, launch.rows, 1, kernels::block_threads, 1, 1,
                                                  0, stream, parameters, nullptr)};
}

}  // namespace musterd::gpu
