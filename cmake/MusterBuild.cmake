# How everything of ours is compiled.
include(GNUInstallDirs)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion)
if(NOT SKBUILD)
  # Not for those who install the package with a compiler that we have not met.
  add_compile_options(-Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 sees overlap in every "literal" + string (its bug 105651), and reads past the end in copies of a
  # small_vector, whose length it does not know.
  add_compile_options(-Wno-restrict -Wno-stringop-overread -Wno-stringop-overflow -Wno-array-bounds)
endif()
# The bits of a result must not depend on whether a compiler fuses a multiplication and an addition.
add_compile_options(-ffp-contract=off)
# The code is position-independent, and without this the compiler must not inline a function of a unit into another one
# of the same unit, as somebody might replace it at run time. Nobody does.
add_compile_options($<$<CONFIG:Release>:-fno-semantic-interposition>)
if(CMAKE_UNITY_BUILD)
  # Names of one file are not those of the next, even where both are compiled at once.
  add_compile_options(-Wno-shadow)
endif()
add_compile_definitions(MUSTER_VERSION="${PROJECT_VERSION}")
if(MUSTER_FAILPOINTS)
  add_compile_definitions(MUSTER_FAILPOINTS)
endif()

if(MUSTER_SANITIZE)
  add_compile_options(-fsanitize=${MUSTER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if(MUSTER_SANITIZE MATCHES "undefined")
    # This check opens a pipe, and takes a failure at the limit of descriptors for a bad object.
    add_compile_options(-fno-sanitize=vptr)
  endif()
  add_link_options(-fsanitize=${MUSTER_SANITIZE})
  if(MUSTER_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Asio has bare fences, which TSan does not see; ours has none.
    add_compile_options(-Wno-tsan)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False alarms of g++ 12 in instrumented code.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
endif()

# With CMAKE_UNITY_BUILD, up to eight files are compiled as one, in less than half the time. Those named here have names
# that clash with those of other files of their target, so each is compiled alone.
function(muster_compile_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

find_program(MUSTER_CCACHE ccache)
if(MUSTER_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MUSTER_CCACHE})
endif()
