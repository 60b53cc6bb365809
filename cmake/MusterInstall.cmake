# What `cmake --install` gives: executables, headers, libmuster with find_package(Muster), a systemd unit, completion.
include(CMakePackageConfigHelpers)

if(DEFINED SKBUILD_SCRIPTS_DIR)
  # A wheel holds the executables, the module and the shell's completion only.
  install(TARGETS musterd muster RUNTIME DESTINATION ${SKBUILD_SCRIPTS_DIR})
  install(FILES deploy/completion/muster DESTINATION ${SKBUILD_DATA_DIR}/share/bash-completion/completions)
  return()
endif()

set(muster_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Muster)
foreach(executable musterd muster)
  if(TARGET ${executable})
    install(TARGETS ${executable} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()
# Not muster/ipc and muster/gpu: how client and daemon talk, and the driver, are no part of the interface.
install(DIRECTORY include/muster DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.hpp
  PATTERN ipc EXCLUDE PATTERN gpu EXCLUDE)
install(TARGETS muster_client muster_gpu muster_ipc EXPORT MusterTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT MusterTargets NAMESPACE Muster:: DESTINATION ${muster_package_dir})
configure_package_config_file(cmake/MusterConfig.cmake.in ${CMAKE_BINARY_DIR}/MusterConfig.cmake
  INSTALL_DESTINATION ${muster_package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/MusterConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/MusterConfig.cmake ${CMAKE_BINARY_DIR}/MusterConfigVersion.cmake
  DESTINATION ${muster_package_dir})
# Only now is it known where to: cmake --install --prefix may give another place than the build was configured for.
install(CODE "
  cmake_path(ABSOLUTE_PATH CMAKE_INSTALL_PREFIX NORMALIZE OUTPUT_VARIABLE prefix)
  set(MUSTERD_FOLDER \"${CMAKE_INSTALL_BINDIR}\")
  cmake_path(ABSOLUTE_PATH MUSTERD_FOLDER BASE_DIRECTORY \"\${prefix}\" NORMALIZE)
  configure_file(\"${PROJECT_SOURCE_DIR}/deploy/musterd.service.in\" \"${CMAKE_BINARY_DIR}/musterd.service\" @ONLY)")
install(FILES ${CMAKE_BINARY_DIR}/musterd.service DESTINATION lib/systemd/system)
install(FILES deploy/completion/muster DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
