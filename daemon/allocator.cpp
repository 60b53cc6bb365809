// The daemon's heap is jemalloc's, with these settings. The environment variable MALLOC_CONF overrules them. See
// adr/0012-allocator.md.

/// Read by jemalloc before main() begins.
extern "C" const char* malloc_conf;
const char* malloc_conf =
    "background_thread:true,"    // a thread gives pages back, and no other thread waits for that
    "narenas:1,"                 // a thread may use what another freed; few of them allocate
    "dirty_decay_ms:50,"         // how long free pages wait for their next use
    "muzzy_decay_ms:0,"          // pages are given back for good, as a cgroup would count them otherwise
    "oversize_threshold:16384";  // free blocks of this size or more give their pages back at once
