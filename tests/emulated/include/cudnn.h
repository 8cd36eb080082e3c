#pragma once

// Stands in for cuDNN's header of this name where our sources name it. cuDNN is not emulated: nothing succeeds.

#include <cstddef>

using cudnnHandle_t = struct cudnnContext*;
enum cudnnStatus_t { CUDNN_STATUS_SUCCESS = 0, CUDNN_STATUS_NOT_SUPPORTED = 3000 };

inline cudnnStatus_t cudnnCreate(cudnnHandle_t*) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
inline cudnnStatus_t cudnnSetStream(cudnnHandle_t, struct CUstream_st*) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
inline cudnnStatus_t cudnnDestroy(cudnnHandle_t) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
inline const char* cudnnGetErrorString(cudnnStatus_t) {
  return "it is not emulated";
}
inline void cudnnGetLastErrorString(char* text, std::size_t) {
  *text = 0;
}
