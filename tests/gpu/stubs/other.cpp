// A library that is neither the driver's nor NCCL's.
extern "C" int other() { return 0; }
