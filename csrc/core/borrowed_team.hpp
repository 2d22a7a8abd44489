// Torch's own OpenMP threads, borrowed. They spin for milliseconds after torch's last parallel region, so a second pool
// would fight them for the cores exactly when backward has ended and the optimizer steps.
#pragma once

namespace pyparallel {

// Runs body(context) on every thread of a team of `threads`, the caller among them, and returns when all have ended.
// False, having run nothing, if no OpenMP runtime is loaded in this process, or the caller is inside such a team
// already. The runtime is looked up once and never loaded from here: `_C` brings no OpenMP of its own.
bool run_on_borrowed_team(int threads, void (*body)(void* context), void* context);

}  // namespace pyparallel
