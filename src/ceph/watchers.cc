// The one thing that librados' C interface cannot do: list an object's watchers.
//
// Lives here: a C face for librados::IoCtx::list_watchers, and nothing else.
// No exception may leave it: Rust's stack cannot unwind through C++.

#include <cerrno>
#include <cstring>
#include <list>
#include <new>
#include <rados/librados.h>
#include <rados/librados.hpp>

extern "C" {

struct rbd_csi_watcher {
  char address[256];
  uint64_t client;
  uint64_t cookie;
};

// Fills at most *count entries and sets *count to the number that there are;
// -ERANGE when they do not fit, -ENOENT when the object is absent.
int rbd_csi_list_watchers(rados_ioctx_t io, const char* object,
                          rbd_csi_watcher* out, size_t* count) noexcept {
  try {
    librados::IoCtx context;
    // Takes a reference of its own, given back when `context` goes.
    librados::IoCtx::from_rados_ioctx_t(io, context);
    std::list<obj_watch_t> watchers;
    const int code = context.list_watchers(object, &watchers);
    if (code < 0) return code;
    const size_t room = *count;
    *count = watchers.size();
    if (watchers.size() > room) return -ERANGE;
    for (const auto& watcher : watchers) {
      static_assert(sizeof(out->address) == sizeof(watcher.addr), "obj_watch_t changed");
      std::memcpy(out->address, watcher.addr, sizeof(out->address));
      out->address[sizeof(out->address) - 1] = '\0';
      out->client = static_cast<uint64_t>(watcher.watcher_id);
      out->cookie = watcher.cookie;
      ++out;
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  } catch (...) {
    return -EIO;
  }
}
}
