// The version that every part of Muster reports.
#pragma once

namespace musterd {

#ifndef MUSTER_VERSION
#error "MUSTER_VERSION comes from the build"
#endif
inline constexpr const char* version = MUSTER_VERSION;

}  // namespace musterd
