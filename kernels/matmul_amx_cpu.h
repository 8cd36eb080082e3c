#pragma once

// Private to kernels/*_cpu.cpp: f32 products on a processor's matrix unit.

#include <cstdint>

namespace lockstep {
class CpuLibraries;
}

namespace lockstep::kernels::amx {

/// One side of a product. Element (i, l), where i counts y's rows or columns and l what is summed over, is
/// data[i * outer + l * inner]; one of the distances is 1.
struct Operand {
  const float* data;
  std::int64_t outer, inner;
};

/// Whether processor and system have Intel's AMX and this process may use it. No where oneDNN is told to do without
/// (ONEDNN_MAX_CPU_ISA).
bool available();

/// Whether a product has enough of everything to be faster here than oneDNN's; decided by the shape alone.
bool suits(std::int64_t m, std::int64_t n, std::int64_t k);

/// y (m, n), rows `y_row` apart, (+)= a b + bias; bias may be null. As precise as f32: each number is cut into three of bf16,
/// which hold all of its 24 bits, and the six of nine products that matter to f32 are summed in f32, at most 128 of k at once
/// (256 where y is large). (The error is a third of that of a sum in one register.) Results depend on the shape only, not on
/// threads. Infinities give NaN, as do numbers that round to infinity in bf16 (3.39e38), and numbers or products below 1e-32 lose
/// digits: the unit knows no subnormal numbers.
void product(CpuLibraries&, float* y, std::int64_t y_row, Operand a, Operand b, std::int64_t m, std::int64_t n, std::int64_t k,
             const float* bias, bool add);

}  // namespace lockstep::kernels::amx
