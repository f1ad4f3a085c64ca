/* state.h - what the files of the binding share: the module's state, the
 * objects' structs, and who offers which function to whom.
 *
 * The binding is the only place that sees Python.h, and hub.h is all it sees of
 * the core.  Functions that one file here offers another begin with bnd_, so that
 * none can meet one inside the core in the linker.  All Python objects of the
 * module hang on hub_state (no statics), so that several interpreters and free
 * threading are later a declaration. */
#ifndef HUB_PYTHON_STATE_H
#define HUB_PYTHON_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdbool.h>

#include "../hub.h"

/* A lock per object wherever its state changes.  Before 3.13, and in 3.13 with a
 * GIL, that lock is the GIL itself and the macros cost nothing; without a GIL
 * they lock the object.  Never `return` between them, never wait between them. */
#if PY_VERSION_HEX >= 0x030D0000
#define HUB_BEGIN_CRITICAL(object) Py_BEGIN_CRITICAL_SECTION(object)
#define HUB_END_CRITICAL() Py_END_CRITICAL_SECTION()
#else
#define HUB_BEGIN_CRITICAL(object) {
#define HUB_END_CRITICAL() }
#endif

/* From here on a memcpy takes longer than giving the GIL away and back. */
#define HUB_COPY_WITHOUT_GIL ((uint64_t)64 << 10)
/* From here on a slot may have to be backed with so many pages that the kernel
 * is busy for longer than that (256 KiB: never from a cache, see the design). */
#define HUB_ALLOC_WITHOUT_GIL ((uint64_t)256 << 10)
/* How long a receive spins with the GIL held before it gives it away. */
#define HUB_SPIN_WITH_GIL_NS 3000

#define HUB_FRAME_SPARES 64   /* most frames received by one call into the core */
#define HUB_FREE_LIST_MAX 128 /* dead frames, and dead slots, kept for reuse */

/* hub_slot.ref, as api.md's `reference` shows it: class:3, index:29. */
#define HUB_REF_INDEX_BITS 29
#define HUB_REF_INDEX_MASK ((1u << HUB_REF_INDEX_BITS) - 1)

#define HUB_ERROR_CLASSES 32 /* at least the rows of the table in errors.c */

/* Keyword names, interned once, so that most comparisons are of pointers. */
enum hub_name {
    HUB_NAME_TO,
    HUB_NAME_CHANNEL,
    HUB_NAME_METHOD,
    HUB_NAME_FLAGS,
    HUB_NAME_MESSAGE_ID,
    HUB_NAME_DEADLINE,
    HUB_NAME_TIMEOUT,
    HUB_NAME_NBYTES,
    HUB_NAME_MAX_FRAMES,
    HUB_NAME_DATA,
    HUB_NAME_OFFSET,
    HUB_NAME_COUNT
};

typedef struct SlotObject SlotObject;
typedef struct FrameObject FrameObject;

typedef struct hub_state {
    PyTypeObject *host_type;
    PyTypeObject *peer_type;
    PyTypeObject *doorbell_type;
    PyTypeObject *transport_type;
    PyTypeObject *slot_type;
    PyTypeObject *frame_type;
    PyTypeObject *turn_type;
    PyTypeObject *caller_type;
    PyTypeObject *callee_type;
    PyTypeObject *gate_type;
    PyObject *errors[HUB_ERROR_CLASSES]; /* row of errors.c's table -> class */
    PyObject *names[HUB_NAME_COUNT];
    /* Dead objects kept for reuse; dead_lock is the GIL's stand-in without one. */
    FrameObject *dead_frames;
    SlotObject *dead_slots;
    unsigned dead_frame_count;
    unsigned dead_slot_count;
#ifdef Py_GIL_DISABLED
    PyMutex dead_lock;
#endif
} hub_state;

#ifdef Py_GIL_DISABLED
#define HUB_LOCK_DEAD(state) PyMutex_Lock(&(state)->dead_lock)
#define HUB_UNLOCK_DEAD(state) PyMutex_Unlock(&(state)->dead_lock)
#else
#define HUB_LOCK_DEAD(state) ((void)0)
#define HUB_UNLOCK_DEAD(state) ((void)0)
#endif

/* ---- objects ------------------------------------------------------------- */

/* A Host, Peer or Transport that was closed gives descriptors and memory back at
 * once, although the object lives on: its reference to the core's object goes with
 * the last call that is inside of it (a wait in another thread, a callback).  With
 * a GIL counting those calls is all it takes.  Without one the reference stays
 * until the end of the object: calls are not counted there. */
typedef struct bnd_users {
    unsigned inside;
    bool closing;  /* drop the reference when nobody is inside any more */
    bool was_open; /* what a NULL pointer means */
} bnd_users;

static inline void bnd_users_enter(bnd_users *users)
{
#ifndef Py_GIL_DISABLED
    users->inside++;
#else
    (void)users;
#endif
}

/* Is the reference to be dropped now? At most once. */
static inline bool bnd_users_leave(bnd_users *users)
{
#ifndef Py_GIL_DISABLED
    if (--users->inside == 0 && users->closing) {
        users->closing = false;
        return true;
    }
#else
    (void)users;
#endif
    return false;
}

typedef struct DoorbellObject DoorbellObject;
typedef struct bnd_held bnd_held; /* held.h */

/* Host and Peer are this struct: a session, and the module that their methods
 * reach the state through (a Python subclass hides it from its type). */
typedef struct SessionObject {
    PyObject_HEAD
    PyObject *module;
    hub_state *state;
    hub_session *session; /* a reference; NULL before __init__ and after close */
    bnd_users users;
    unsigned transport_calls;  /* inside of its transports; not counted without a GIL */
    PyObject *path;            /* str, or None for an anonymous hub */
    PyObject *config;          /* a host's, as a tuple */
    bool limited;
    uint32_t id;               /* as which peer; 0: host */
    DoorbellObject *doorbells; /* a host's ends, not counted: they leave this list themselves */
} SessionObject;

/* Either an end by hand (fd, owned) or a host's end (link, owned by the core). */
struct DoorbellObject {
    PyObject_HEAD
    PyObject *module;
    hub_state *state;
    SessionObject *owner; /* the Host whose end it is, a reference, or NULL */
    hub_link *link;       /* a reference; NULL when the host was closed, and by hand */
    int fd;               /* -1: closed, or a transport's by now */
    bool taken;           /* a transport reads it */
    uint32_t peer_id, epoch;
    DoorbellObject *next, **previous; /* in owner->doorbells */
};

enum hub_transport_kind { HUB_KIND_ALL_PEERS, HUB_KIND_HOST_PEER, HUB_KIND_PEER };

typedef struct TransportObject {
    PyObject_HEAD
    PyObject *module;
    hub_state *state;
    hub_transport *transport; /* a reference; NULL before __init__ and after close */
    hub_session *session;     /* the owner's, kept alive by the transport */
    bnd_users users;
    hub_transport_stat last_stat; /* as it was at close */
    PyObject *owner;          /* Host or Peer: borrowed in spirit, but must outlive us */
    PyObject *doorbell;       /* or NULL */
    PyObject *name;           /* str */
    PyObject *on_gone;        /* callable, or NULL */
    PyObject *gone_ids;       /* one peer: what it never received, once known */
    enum hub_transport_kind kind;
    uint32_t own_id;   /* 0: host */
    uint32_t other_id; /* who is at the other end, where there is one */
    bool writable;     /* frames may be written to */
    bnd_held *held;    /* a reference; NULL before __init__ */
    unsigned armed;    /* enum hub_armed: waiters of event loops */
    unsigned spare_count;
    FrameObject *spares[HUB_FRAME_SPARES]; /* frames that nobody has seen yet */
    hub_frame *batch; /* HUB_FRAME_SPARES frames for hub_recv_many, on first use */
} TransportObject;

/* What may be done with the memory of a Slot or Frame. */
enum hub_holding {
    HUB_HELD,     /* ours, usable */
    HUB_BUSY,     /* a send of another thread is under way with it */
    HUB_RELEASED, /* given up; freed with the last view, if there is one */
    HUB_MOVED     /* sent: somebody else's */
};

struct SlotObject {
    PyObject_HEAD
    hub_session *session; /* a reference while slot.data != NULL; link of the free list */
    Py_ssize_t exports;
    enum hub_holding holding;
    uint64_t size;
    hub_slot slot;
};

/* The core receives into `frame` directly: allocated first, filled later. */
struct FrameObject {
    PyObject_HEAD
    hub_session *session; /* a reference while frame.slot.data != NULL; link of the free list */
    Py_ssize_t exports;
    enum hub_holding holding;
    bool writable;
    bool crowded;   /* its slot was beyond the receiver's share */
    bnd_held *held; /* a reference while its slot is counted there */
    hub_frame frame;
};

/* ---- types --------------------------------------------------------------- */
extern PyType_Spec bnd_host_spec;
extern PyType_Spec bnd_peer_spec;
extern PyType_Spec bnd_doorbell_spec;
extern PyType_Spec bnd_transport_spec;
extern PyType_Spec bnd_slot_spec;
extern PyType_Spec bnd_frame_spec;
extern PyType_Spec bnd_turn_spec;
extern PyType_Spec bnd_caller_spec;
extern PyType_Spec bnd_callee_spec;
extern PyType_Spec bnd_gate_spec;

/* The state behind one of our own types (not a subclass); NULL while the
 * interpreter is taking the module apart. */
static inline hub_state *bnd_state_of_type(PyTypeObject *type)
{
    PyObject *module = ((PyHeapTypeObject *)type)->ht_module;
    return module == NULL ? NULL : (hub_state *)PyModule_GetState(module);
}
/* The module behind a type or a Python subclass of it: a new reference. */
PyObject *bnd_module_of_type(PyTypeObject *type);

/* ---- errors.c ------------------------------------------------------------ */
int bnd_errors_init(hub_state *state);
/* Raise what `code` stands for. The format says what was tried, and on what. NULL. */
PyObject *bnd_raise(hub_state *state, int code, const hub_fault *fault, const char *format, ...);
/* The same with attributes for the instance (a dict, may be NULL) and the whole text. */
PyObject *bnd_raise_text(hub_state *state, int code, PyObject *attributes, PyObject *text);
/* "found; what to do" for a code. Never NULL. */
const char *bnd_error_found(int code);
const char *bnd_error_advice(int code);

/* ---- session.c: what Host and Peer share --------------------------------- */
PyObject *bnd_session_object_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
int bnd_session_object_traverse(SessionObject *self, visitproc visit, void *arg);
int bnd_session_object_clear(SessionObject *self);
void bnd_session_object_dealloc(SessionObject *self);
PyObject *bnd_session_object_close(SessionObject *self, PyObject *unused);
PyObject *bnd_session_object_get_closed(SessionObject *self, void *unused);
/* Begin a call: 0, or -1 with an exception when it was never opened or is closed. */
int bnd_session_object_enter(SessionObject *self, const char *tried);
/* End it; whatever bnd_session_object_enter let in. */
void bnd_session_object_leave(SessionObject *self);
/* 0, or -1 with an exception when it was called already. */
int bnd_session_object_check_new(SessionObject *self);

/* ---- statistics.c -------------------------------------------------------- */
PyObject *bnd_statistics_dict(const hub_stat *stat);
PyObject *bnd_statistics_peers(const hub_stat *stat);
PyObject *bnd_statistics_transport(const hub_transport_stat *stat);
PyObject *bnd_statistics_classes(const hub_config *config);
/* Append and drop the reference; -1 with an exception when value is NULL. */
int bnd_list_add(PyObject *list, PyObject *value);
int bnd_dict_add(PyObject *dict, const char *key, PyObject *value);

/* ---- doorbell.c ---------------------------------------------------------- */
PyObject *bnd_doorbell_of_link(SessionObject *host, hub_link *link);
/* The host was closed: let its core go. */
void bnd_doorbell_forget_link(DoorbellObject *self);

/* ---- slot.c -------------------------------------------------------------- */
SlotObject *bnd_slot_object_new(hub_state *state); /* holds nothing yet */
/* Give it the slot that the caller has allocated. */
void bnd_slot_object_fill(SlotObject *self, hub_session *session, const hub_slot *slot,
                          uint64_t size);
/* For a send: from HELD, without views, to BUSY. -1 with an exception. */
int bnd_slot_object_claim(SlotObject *self);
/* The end of that send: moved, or the caller's again. */
void bnd_slot_object_settle(SlotObject *self, bool moved);
void bnd_slot_objects_forget(hub_state *state); /* empty the free list */

/* ---- frame.c ------------------------------------------------------------- */
FrameObject *bnd_frame_object_new(hub_state *state); /* to be received into */
/* It has been received into: make it one that Python may see. */
PyObject *bnd_frame_object_deliver(FrameObject *self, const TransportObject *transport);
/* For a send. 1: BUSY, its slot may be moved; 0: pinned, to be copied; -1: exception. */
int bnd_frame_object_claim(FrameObject *self, const hub_session *session);
void bnd_frame_object_settle(FrameObject *self, int claim, bool sent);
const void *bnd_frame_object_data(const FrameObject *self);
void bnd_frame_objects_forget(hub_state *state);

/* ---- plain_write.c, plain_read.c ------------------------------------------ */
PyObject *bnd_plain_encode_method(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *bnd_plain_decode_method(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
/* Into `data`: bytes written; -1 without an exception: it is not plain, or has no room there. */
Py_ssize_t bnd_plain_write(PyObject *value, char *data, size_t size);
/* What `data` says, which is the memory of `source`. views: NULL or a set, as for plain_decode. */
PyObject *bnd_plain_read(PyObject *source, const char *data, size_t length, PyObject *views);

/* ---- turn.c --------------------------------------------------------------- */
/* The turn, if nobody has it, not even this thread; the same as `with turn` otherwise. */
bool bnd_turn_take(PyObject *turn);
/* Give it up; keeps the exception that is set. */
void bnd_turn_give(PyObject *turn);

/* ---- caller.c ------------------------------------------------------------- */
/* What Caller.call() does. counted: the caller's place is counted by Python already; *adopted:
 * what it gives is what `adopt` made of the call. */
PyObject *bnd_caller_exchange(PyObject *caller, PyObject *method, PyObject *args,
                              int64_t deadline_ns, bool counted, bool *adopted);

/* ---- inspect.c ----------------------------------------------------------- */
PyObject *bnd_inspect_method(PyObject *module, PyObject *path_or_fd);
PyObject *bnd_unlink_if_stale_method(PyObject *module, PyObject *path);

/* ---- fsck.c -------------------------------------------------------------- */
PyObject *bnd_host_fsck(SessionObject *self, PyObject *repair);
PyObject *bnd_fsck_method(PyObject *module, PyObject *args);
PyObject *bnd_fsck_dump_method(PyObject *module, PyObject *args);

/* ---- heap.c --------------------------------------------------------------- */
PyObject *bnd_keep_freed_memory_method(PyObject *module, PyObject *unused);

/* ---- parent.c ------------------------------------------------------------ */
PyObject *bnd_die_with_parent_method(PyObject *module, PyObject *args);

#endif
