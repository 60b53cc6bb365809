// What the daemon's heap is made of: jemalloc, with these settings. They can be overruled: MALLOC_CONF. See
// adr/0012-allocator.md.

/// Read by jemalloc before main() begins.
extern "C" const char* malloc_conf;
const char* malloc_conf =
    "background_thread:true,"    // gives pages back, and no other thread waits for that
    "narenas:1,"                 // what one thread frees another may use; few of them allocate
    "dirty_decay_ms:50,"         // for so long free pages wait for their next use
    "muzzy_decay_ms:0,"          // they are given back for good, or a cgroup would count them
    "oversize_threshold:16384";  // from so many bytes on at once
