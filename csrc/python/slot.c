/* slot.c - _core.Slot: shared memory that this process owns and may write.
 *
 * A slot is freed by release(), by being dropped, or not at all once it was sent
 * (its memory is somebody else's then).  A view pins it: what release() gives up
 * is freed with the last view.  Frees work after everything is closed; in a forked
 * child the core does nothing, as the slot is the parent's.
 *
 * Not a GC type: it refers to no Python object. */
#include "args.h"

#include <string.h>

PyDoc_STRVAR(slot_doc,
"A slot of the hub, made by Transport.alloc: a writable buffer of `size` bytes.\n\n"
"send(slot) moves it without a copy. release() or the end of `with` gives it back,\n"
"when the last view of it is gone.");

/* ---- life ---------------------------------------------------------------- */
SlotObject *bnd_slot_object_new(hub_state *state)
{
    SlotObject *self;
    HUB_LOCK_DEAD(state);
    self = state->dead_slots;
    if (self != NULL) {
        state->dead_slots = (SlotObject *)(void *)self->session;
        state->dead_slot_count--;
    }
    HUB_UNLOCK_DEAD(state);
    if (self != NULL)
        PyObject_Init((PyObject *)self, state->slot_type);
    else
        self = PyObject_New(SlotObject, state->slot_type);
    if (self == NULL)
        return NULL;
    self->session = NULL;
    self->exports = 0;
    self->holding = HUB_RELEASED;
    self->size = 0;
    self->slot.data = NULL;
    return self;
}

void bnd_slot_object_fill(SlotObject *self, hub_session *session, const hub_slot *slot,
                          uint64_t size)
{
    self->session = hub_session_hold(session);
    self->slot = *slot;
    self->size = size;
    self->holding = HUB_HELD;
}

/* Free what release() or the end of life has given up. Outside all locks: it may
 * wake others and unmap the hub. */
static void give_back(hub_session *session, const hub_slot *slot)
{
    if (session == NULL)
        return;
    hub_slot_free(session, slot);
    hub_session_unhold(session);
}

/* Take the slot out of the object: the session it belongs to, or NULL. */
static hub_session *take_out(SlotObject *self, hub_slot *ret)
{
    hub_session *session = self->session;
    *ret = self->slot;
    self->session = NULL;
    self->slot.data = NULL;
    return session;
}

static void slot_dealloc(SlotObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    hub_slot slot;
    hub_session *session = take_out(self, &slot);
    give_back(session, &slot);
    hub_state *state = bnd_state_of_type(type);
    bool kept = false;
    if (state != NULL) {
        HUB_LOCK_DEAD(state);
        if (state->dead_slot_count < HUB_FREE_LIST_MAX) {
            self->session = (hub_session *)(void *)state->dead_slots;
            state->dead_slots = self;
            state->dead_slot_count++;
            kept = true;
        }
        HUB_UNLOCK_DEAD(state);
    }
    if (!kept)
        PyObject_Free(self);
    Py_DECREF(type);
}

void bnd_slot_objects_forget(hub_state *state)
{
    HUB_LOCK_DEAD(state);
    SlotObject *next = state->dead_slots;
    state->dead_slots = NULL;
    state->dead_slot_count = HUB_FREE_LIST_MAX; /* none is kept from now on */
    HUB_UNLOCK_DEAD(state);
    while (next != NULL) {
        SlotObject *self = next;
        next = (SlotObject *)(void *)self->session;
        PyObject_Free(self);
    }
}

static PyObject *unusable(const SlotObject *self)
{
    const char *why = self->holding == HUB_MOVED  ? "slot was sent: it is no longer yours"
                      : self->holding == HUB_BUSY ? "slot is being sent by another thread"
                                                  : "slot was released: alloc a new one";
    PyErr_SetString(PyExc_ValueError, why);
    return NULL;
}

/* ---- sending: used by transport_send.c ----------------------------------- */
int bnd_slot_object_claim(SlotObject *self)
{
    enum hub_holding holding;
    Py_ssize_t exports;
    HUB_BEGIN_CRITICAL(self);
    holding = self->holding;
    exports = self->exports;
    if (holding == HUB_HELD && exports == 0)
        self->holding = HUB_BUSY;
    HUB_END_CRITICAL();
    if (holding != HUB_HELD) {
        unusable(self);
        return -1;
    }
    if (exports != 0) {
        PyErr_Format(PyExc_BufferError,
                     "cannot send a slot that %zd views still show: delete the array or view first",
                     exports);
        return -1;
    }
    return 0;
}

void bnd_slot_object_settle(SlotObject *self, bool moved)
{
    hub_session *session = NULL;
    HUB_BEGIN_CRITICAL(self);
    self->holding = moved ? HUB_MOVED : HUB_HELD;
    if (moved) {
        session = self->session;
        self->session = NULL;
        self->slot.data = NULL;
    }
    HUB_END_CRITICAL();
    if (session != NULL)
        hub_session_unhold(session);
}

/* ---- pinning ------------------------------------------------------------- */
/* 0, or -1 with an exception: the slot's memory stays as it is until unpin(). */
static int pin(SlotObject *self)
{
    bool held;
    HUB_BEGIN_CRITICAL(self);
    held = self->holding == HUB_HELD;
    if (held)
        self->exports++;
    HUB_END_CRITICAL();
    if (!held)
        unusable(self);
    return held ? 0 : -1;
}

static void unpin(SlotObject *self)
{
    hub_session *session = NULL;
    hub_slot slot;
    HUB_BEGIN_CRITICAL(self);
    self->exports--;
    if (self->exports == 0 && self->holding == HUB_RELEASED)
        session = take_out(self, &slot);
    HUB_END_CRITICAL();
    give_back(session, &slot);
}

static int slot_getbuffer(SlotObject *self, Py_buffer *view, int flags)
{
    if (pin(self) < 0) {
        view->obj = NULL;
        return -1;
    }
    int rc = PyBuffer_FillInfo(view, (PyObject *)self, self->slot.data, (Py_ssize_t)self->size, 0,
                               flags);
    if (rc < 0)
        unpin(self);
    return rc;
}

static void slot_releasebuffer(SlotObject *self, Py_buffer *Py_UNUSED(view))
{
    unpin(self);
}

/* ---- methods ------------------------------------------------------------- */
static PyObject *slot_release(SlotObject *self, PyObject *Py_UNUSED(unused))
{
    hub_session *session = NULL;
    hub_slot slot;
    bool busy;
    HUB_BEGIN_CRITICAL(self);
    busy = self->holding == HUB_BUSY;
    if (self->holding == HUB_HELD) {
        self->holding = HUB_RELEASED;
        if (self->exports == 0)
            session = take_out(self, &slot);
    }
    HUB_END_CRITICAL();
    if (busy)
        return unusable(self);
    give_back(session, &slot);
    Py_RETURN_NONE;
}

static PyObject *slot_enter(SlotObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->holding != HUB_HELD)
        return unusable(self);
    return Py_NewRef(self);
}

static PyObject *slot_exit(SlotObject *self, PyObject *Py_UNUSED(args))
{
    return slot_release(self, NULL);
}

/* The source may be a view of the slot itself. */
static void copy_bytes(unsigned char *target, const unsigned char *source, uint64_t length)
{
    if (length < HUB_COPY_WITHOUT_GIL) {
        memmove(target, source, length);
        return;
    }
    bool apart = (uintptr_t)target - (uintptr_t)source >= length &&
                 (uintptr_t)source - (uintptr_t)target >= length;
    Py_BEGIN_ALLOW_THREADS
    if (apart)
        hub_copy(target, source, length);
    else
        memmove(target, source, length);
    Py_END_ALLOW_THREADS
}

/* The slot is the parent's, and what is written here would be sent by it. */
static int refuse_forked(SlotObject *self, const char *tried)
{
    if (!hub_session_forked(self->session))
        return 0;
    hub_state *state = bnd_state_of_type(Py_TYPE(self));
    if (state != NULL)
        bnd_raise(state, HUB_EFORKED, NULL, "%s() on a slot", tried);
    return -1;
}

static PyObject *write_buffer(SlotObject *self, const Py_buffer *source, uint64_t offset)
{
    if (pin(self) < 0)
        return NULL;
    if (refuse_forked(self, "write") < 0) {
        unpin(self);
        return NULL;
    }
    uint64_t size = self->size; /* no resize while it is pinned */
    uint64_t length = (uint64_t)source->len;
    bool fits = offset <= size && length <= size - offset;
    if (fits)
        copy_bytes(self->slot.data + offset, source->buf, length);
    unpin(self);
    if (!fits)
        return PyErr_Format(PyExc_ValueError,
                            "write(): %llu bytes at offset %llu do not fit into a slot of %llu "
                            "bytes: resize() it, up to its capacity",
                            (unsigned long long)length, (unsigned long long)offset,
                            (unsigned long long)size);
    return PyLong_FromUnsignedLongLong(length);
}

static PyObject *slot_write(SlotObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const hub_args_spec spec = {"write", 2, 2, 1, {HUB_NAME_DATA, HUB_NAME_OFFSET}};
    PyObject *values[2];
    uint64_t offset = 0;
    Py_buffer source;
    hub_state *state = bnd_state_of_type(Py_TYPE(self));
    if (state == NULL || bnd_args_unpack(state, &spec, args, nargs, kwnames, values) < 0)
        return NULL;
    if (values[1] != NULL && bnd_arg_unsigned(values[1], "offset", UINT64_MAX, &offset) < 0)
        return NULL;
    if (bnd_arg_buffer(values[0], "write", &source) < 0)
        return NULL;
    PyObject *result = write_buffer(self, &source, offset);
    PyBuffer_Release(&source);
    return result;
}

/* Have more of the slot backed with memory; BUSY meanwhile, so nobody moves it. */
static int back_more(SlotObject *self, uint64_t size)
{
    int rc;
    if (size < HUB_ALLOC_WITHOUT_GIL)
        return hub_slot_back(self->session, &self->slot, size);
    Py_BEGIN_ALLOW_THREADS
    rc = hub_slot_back(self->session, &self->slot, size);
    Py_END_ALLOW_THREADS
    return rc;
}

static int claim_to_resize(SlotObject *self, uint64_t size)
{
    if (bnd_slot_object_claim(self) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError))
            PyErr_SetString(PyExc_BufferError, "cannot resize a slot that views still show: delete "
                                               "the array or view first");
        return -1;
    }
    if (refuse_forked(self, "resize") < 0) {
        bnd_slot_object_settle(self, false);
        return -1;
    }
    if (size <= self->slot.capacity)
        return 0;
    bnd_slot_object_settle(self, false);
    PyErr_Format(PyExc_ValueError, "resize(): %llu bytes are more than the slot's capacity, %llu: "
                                   "alloc a larger one",
                 (unsigned long long)size, (unsigned long long)self->slot.capacity);
    return -1;
}

static PyObject *slot_resize(SlotObject *self, PyObject *arg)
{
    uint64_t size;
    if (bnd_arg_unsigned(arg, "nbytes", INT64_MAX, &size) < 0 || claim_to_resize(self, size) < 0)
        return NULL;
    int rc = size > self->size ? back_more(self, size) : 0;
    if (rc >= 0)
        self->size = size;
    bnd_slot_object_settle(self, false);
    if (rc < 0) {
        hub_state *state = bnd_state_of_type(Py_TYPE(self));
        return state == NULL ? NULL
                             : bnd_raise(state, rc, NULL, "resizing a slot to %llu bytes",
                                         (unsigned long long)size);
    }
    Py_RETURN_NONE;
}

static Py_ssize_t slot_length(SlotObject *self)
{
    return (Py_ssize_t)self->size;
}

/* ---- attributes ---------------------------------------------------------- */
static PyObject *slot_get_size_class(SlotObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(self->slot.ref >> HUB_REF_INDEX_BITS);
}

static PyObject *slot_get_reference(SlotObject *self, void *Py_UNUSED(unused))
{
    return Py_BuildValue("(III)", self->slot.ref >> HUB_REF_INDEX_BITS,
                         self->slot.ref & HUB_REF_INDEX_MASK, self->slot.gen);
}

static PyObject *slot_get_released(SlotObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->holding == HUB_RELEASED || self->holding == HUB_MOVED);
}

static PyObject *slot_repr(SlotObject *self)
{
    static const char *const words[] = {"", ", being sent", ", released", ", sent"};
    return PyUnicode_FromFormat("<Slot of %llu bytes, class %u, index %u%s>",
                                (unsigned long long)self->size,
                                self->slot.ref >> HUB_REF_INDEX_BITS,
                                self->slot.ref & HUB_REF_INDEX_MASK, words[self->holding]);
}

/* ---- type ---------------------------------------------------------------- */
static PyMethodDef slot_methods[] = {
    {"write", (PyCFunction)(void (*)(void))slot_write, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("write($self, data, offset=0)\n--\n\n"
               "Copy a buffer into the slot -> bytes written. ValueError if it does not fit.")},
    {"resize", (PyCFunction)slot_resize, METH_O,
     PyDoc_STR("resize($self, nbytes, /)\n--\n\n"
               "Change the size, up to the capacity. BufferError while views show it.")},
    {"release", (PyCFunction)slot_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\n"
               "Give it back, with its last view. Does nothing after the first time or a send.")},
    {"__enter__", (PyCFunction)slot_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)slot_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef slot_members[] = {
    {"size", T_ULONGLONG, offsetof(SlotObject, size), READONLY, PyDoc_STR("Bytes in use.")},
    {"capacity", T_ULONGLONG, offsetof(SlotObject, slot.capacity), READONLY,
     PyDoc_STR("Bytes that it can have.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef slot_getset[] = {
    {"size_class", (getter)slot_get_size_class, NULL, PyDoc_STR("Index of its size class."), NULL},
    {"reference", (getter)slot_get_reference, NULL, PyDoc_STR("(class, index, generation)."), NULL},
    {"released", (getter)slot_get_released, NULL, PyDoc_STR("Was it released or sent?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slot_slots[] = {
    {Py_tp_doc, (void *)slot_doc},
    {Py_tp_dealloc, slot_dealloc},
    {Py_tp_repr, slot_repr},
    {Py_tp_methods, slot_methods},
    {Py_tp_members, slot_members},
    {Py_tp_getset, slot_getset},
    {Py_sq_length, slot_length},
    {Py_bf_getbuffer, slot_getbuffer},
    {Py_bf_releasebuffer, slot_releasebuffer},
    {0, NULL},
};

PyType_Spec bnd_slot_spec = {
    .name = "shmhub._core.Slot",
    .basicsize = sizeof(SlotObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slot_slots,
};
