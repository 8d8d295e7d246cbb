// SPDX-License-Identifier: Apache-2.0
// What the loader asks before it trusts the library; nothing here needs more than SSE2 to answer.
#include "interface.h"

extern "C" NATIVE_EXPORT int native_version() { return NATIVE_VERSION; }
