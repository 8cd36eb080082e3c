// Part of sanitized builds only. Open MPI unloads its plug-ins before the process ends, and what they leak could then not be told
// from our own leaks. With this they stay loaded, and leaks.supp knows them by name.
extern "C" int dlclose(void*) noexcept { return 0; }
