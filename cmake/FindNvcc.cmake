# Finds nvcc, NVIDIA's compiler. Only nvcc itself and what its package brings are needed, not the rest of a toolkit; so
# the wheels of the Python environment will do: nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime,
# nvidia-cuda-cccl. Searched in this order: -DNvcc_EXECUTABLE=..., $CUDACXX, PATH, the wheels, /usr/local/cuda. The first
# that compiles a kernel is taken.
#
# Sets Nvcc_FOUND, Nvcc_EXECUTABLE, Nvcc_VERSION, Nvcc_FLAGS (what it must be called with), Nvcc_ARCHITECTURES (75 80 ...,
# all that it has from 75 on).
include(FindPackageHandleStandardArgs)

# The folders where wheels may be: of the Python of this build, or of a .venv in the checkout.
function(_nvcc_wheel_folders result)
  set(found)
  foreach(python ${Python_EXECUTABLE} ${PROJECT_SOURCE_DIR}/.venv/bin/python)
    if(EXISTS ${python})
      execute_process(COMMAND ${python} -c "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
        OUTPUT_VARIABLE packages RESULT_VARIABLE failed ERROR_QUIET)
      if(NOT failed)
        file(GLOB folders LIST_DIRECTORIES true ${packages}/nvidia/cu[0-9]*/bin)
        list(APPEND found ${folders})
      endif()
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

# Whether this nvcc compiles a kernel, and if not, why.
function(_nvcc_check executable why)
  set(${why} "" PARENT_SCOPE)
  set(folder ${CMAKE_BINARY_DIR}/CMakeFiles/nvcc)
  file(WRITE ${folder}/check.cu "#include <cstdint>\nextern \"C\" __global__ void check(std::uint32_t* p) { *p = 1; }\n")
  execute_process(COMMAND ${executable} ${Nvcc_FLAGS} -std=c++20 --fatbin -o ${folder}/check.fatbin ${folder}/check.cu
    RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    string(REGEX REPLACE "\n.*" "" output "${output}")
    set(${why} "it compiles no kernel: ${output}" PARENT_SCOPE)
  endif()
endfunction()

# The version, as nvcc says it; empty if it does not run.
function(_nvcc_version executable result)
  execute_process(COMMAND ${executable} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE failed)
  string(REGEX MATCH "release [0-9.]+, V([0-9.]+)" matched "${text}")
  set(${result} "${CMAKE_MATCH_1}" PARENT_SCOPE)
endfunction()

# The compiler of this build, so that both agree on what the headers of the system mean.
set(Nvcc_FLAGS -ccbin ${CMAKE_CXX_COMPILER})

if(NOT Nvcc_EXECUTABLE)
  find_program(_nvcc_in_path nvcc NO_CACHE NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
  _nvcc_wheel_folders(_nvcc_wheels)
  set(_nvcc_looked_at)
  foreach(_nvcc_candidate $ENV{CUDACXX} ${_nvcc_in_path} ${_nvcc_wheels} /usr/local/cuda/bin)
    if(IS_DIRECTORY ${_nvcc_candidate})
      string(APPEND _nvcc_candidate /nvcc)
    endif()
    if(NOT EXISTS ${_nvcc_candidate})
      continue()
    endif()
    _nvcc_version(${_nvcc_candidate} _nvcc_version_text)
    if(NOT _nvcc_version_text OR _nvcc_version_text VERSION_LESS "${Nvcc_FIND_VERSION}")
      list(APPEND _nvcc_looked_at "${_nvcc_candidate}: version '${_nvcc_version_text}', ${Nvcc_FIND_VERSION} is needed")
      continue()
    endif()
    _nvcc_check(${_nvcc_candidate} _nvcc_why)
    if(_nvcc_why)
      list(APPEND _nvcc_looked_at "${_nvcc_candidate}: ${_nvcc_why}")
      continue()
    endif()
    set(Nvcc_EXECUTABLE ${_nvcc_candidate} CACHE FILEPATH "NVIDIA's compiler for the GPU's kernels" FORCE)
    break()
  endforeach()
  foreach(_nvcc_line ${_nvcc_looked_at})
    message(STATUS "nvcc: not ${_nvcc_line}")
  endforeach()
endif()

if(Nvcc_EXECUTABLE)
  _nvcc_version(${Nvcc_EXECUTABLE} Nvcc_VERSION)
  execute_process(COMMAND ${Nvcc_EXECUTABLE} --list-gpu-code OUTPUT_VARIABLE _nvcc_codes ERROR_QUIET)
  string(REGEX MATCHALL "sm_[0-9]+" Nvcc_ARCHITECTURES "${_nvcc_codes}")
  list(TRANSFORM Nvcc_ARCHITECTURES REPLACE "sm_" "")
  list(FILTER Nvcc_ARCHITECTURES EXCLUDE REGEX "^([1-6][0-9]|7[0-4])$")
  list(SORT Nvcc_ARCHITECTURES COMPARE NATURAL)
endif()
find_package_handle_standard_args(Nvcc REQUIRED_VARS Nvcc_EXECUTABLE Nvcc_ARCHITECTURES VERSION_VAR Nvcc_VERSION
  REASON_FAILURE_MESSAGE "Looked at CUDACXX, PATH, the wheels of Python (${Python_EXECUTABLE}) and of .venv, and /usr/local/cuda (hint: pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl)")
