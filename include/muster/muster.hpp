// Everything a C++ program needs: connect, allocate, seal, join, collect.
#pragma once

#include <muster/buffer.hpp>
#include <muster/client.hpp>
#include <muster/group.hpp>
#include <muster/options.hpp>
#include <muster/ref.hpp>
#include <muster/result.hpp>
#include <muster/types.hpp>
#include <muster/work.hpp>
