#pragma once

// HD marks a function that runs on the CPU and on the GPU. __CUDACC__ appears in this folder only.
#if defined(__CUDACC__)
#define HD __host__ __device__ inline
#else
#define HD inline
#endif
