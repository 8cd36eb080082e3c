# shellcheck shell=bash
# Sourced: finds this bundle's program, mpirun and tests, and the machine's CUDA 13 libraries, wherever both are.
#   . ./env.sh && mpirun -n 2 lockstep doctor
# LOCKSTEP_DEVICE=cpu takes the libraries built without CUDA; CUDA_LIBRARIES=DIR:DIR names the folders to look in first.
lockstep_home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$lockstep_home/bin:$PATH
export LOCKSTEP_SOURCE=$lockstep_home/source LOCKSTEP_PROGRAM=$lockstep_home/bin/lockstep

# Open MPI and PMIx were built for /usr; they look for their plugins and texts here instead.
export OPAL_PREFIX=$lockstep_home OPAL_SYSCONFDIR=$lockstep_home/share/openmpi PMIX_PREFIX=$lockstep_home/lib/pmix
export PMIX_LIBDIR=$PMIX_PREFIX/lib PMIX_PKGLIBDIR=$PMIX_PREFIX/lib/pmix PMIX_PKGDATADIR=$PMIX_PREFIX/share/pmix
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
# Ranks of one machine only: no search for network devices, no start of remote agents.
export OMPI_MCA_plm=isolated OMPI_MCA_btl=self,vader,tcp OMPI_MCA_pml=ob1 OMPI_MCA_btl_vader_single_copy_mechanism=none

# cuda_folders: where toolkits and Python's packages keep libraries, most wanted first.
cuda_folders() {
  local folder python
  tr ':' '\n' <<<"${CUDA_LIBRARIES:-}:${LD_LIBRARY_PATH:-}"
  for python in python3 python; do
    # shellcheck disable=SC2016 # Python's text
    "$python" -c 'import nvidia, glob
for root in nvidia.__path__: print(*sorted(glob.glob(root + "/*/lib")), sep="\n")' 2>/dev/null && break
  done
  for folder in "${CUDA_HOME:-/usr/local/cuda}" /usr/local/cuda /usr/local/cuda-13*; do
    printf '%s\n' "$folder/lib64" "$folder/targets/x86_64-linux/lib"
  done
  printf '%s\n' /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/local/lib
}

# The processor's half needs AVX2, as every machine with such a GPU has.
grep -qm1 avx2 /proc/cpuinfo || echo "lockstep: this processor has no AVX2, which this bundle was built for" >&2

lockstep_cuda=() lockstep_missing=()
for library in libcudart.so.13 libcublasLt.so.13 libcudnn.so.9 libnccl.so.2 libnvrtc.so.13; do
  found=
  while read -r folder; do
    if [ -n "$folder" ] && [ -e "$folder/$library" ]; then found=$folder && break; fi
  done < <(cuda_folders)
  if [ -n "$found" ]; then
    [[ ":$(IFS=:; echo "${lockstep_cuda[*]}"):" == *":$found:"* ]] || lockstep_cuda+=("$found")
  elif [ "$library" != libnvrtc.so.13 ]; then   # only some of cuDNN's engines want it
    lockstep_missing+=("$library")
  fi
done
# shellcheck disable=SC2034 # shown by check and benchmark
if [ "${LOCKSTEP_DEVICE:-}" = cpu ]; then
  lockstep_libraries="the processor's (LOCKSTEP_DEVICE=cpu)"
elif [ ${#lockstep_missing[@]} -gt 0 ]; then
  lockstep_libraries="the processor's: not found on this machine: ${lockstep_missing[*]}"
else
  lockstep_libraries="with CUDA, from ${lockstep_cuda[*]}"
  LD_LIBRARY_PATH=$lockstep_home/lib/cuda:$(IFS=:; echo "${lockstep_cuda[*]}")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
fi
unset found folder library
