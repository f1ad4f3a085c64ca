/* frame.c - _core.Frame: one received message.
 *
 * The core receives into the embedded hub_frame, so a Frame is made before there
 * is anything in it and becomes visible when there is.  An inline payload is the
 * frame's own bytes; another one is a slot that this process owns until release(),
 * the frame's end, a send that passes it on, or take().  A view pins either.
 *
 * Not a GC type: it refers to no Python object. */
#include "args.h"
#include "held.h"

#include <string.h>

PyDoc_STRVAR(frame_doc,
"A received message: its payload as a buffer, and what travelled beside it.\n\n"
"release() or the end of `with` gives the payload back, when the last view of it is\n"
"gone. send(frame) passes it on.");

/* ---- life ---------------------------------------------------------------- */
FrameObject *bnd_frame_object_new(hub_state *state)
{
    FrameObject *self;
    HUB_LOCK_DEAD(state);
    self = state->dead_frames;
    if (self != NULL) {
        state->dead_frames = (FrameObject *)(void *)self->session;
        state->dead_frame_count--;
    }
    HUB_UNLOCK_DEAD(state);
    if (self != NULL)
        PyObject_Init((PyObject *)self, state->frame_type);
    else
        self = PyObject_New(FrameObject, state->frame_type);
    if (self == NULL)
        return NULL;
    self->session = NULL;
    self->exports = 0;
    self->holding = HUB_HELD;
    self->writable = false;
    self->crowded = false;
    self->held = NULL;
    self->frame.slot.data = NULL;
    return self;
}

PyObject *bnd_frame_object_deliver(FrameObject *self, const TransportObject *transport)
{
    if (self->frame.slot.data != NULL) {
        self->session = hub_session_hold(transport->session);
        self->held = transport->held;
        self->crowded = bnd_held_add(self->held, &self->frame.slot);
    }
    self->writable = transport->writable;
    return (PyObject *)self;
}

/* Outside all locks: it may wake others and unmap the hub. */
static void give_back(hub_session *session, const hub_slot *slot)
{
    if (session == NULL)
        return;
    hub_slot_free(session, slot);
    hub_session_unhold(session);
}

/* Take the slot out of the object: the session it belongs to, or NULL. */
static hub_session *take_out(FrameObject *self, hub_slot *ret)
{
    hub_session *session = self->session;
    *ret = self->frame.slot;
    if (self->held != NULL) {
        bnd_held_remove(self->held, ret);
        self->held = NULL;
    }
    self->session = NULL;
    self->frame.slot.data = NULL;
    return session;
}

static void frame_dealloc(FrameObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->session != NULL) {
        hub_slot slot;
        hub_session *session = take_out(self, &slot);
        give_back(session, &slot);
    }
    hub_state *state = bnd_state_of_type(type);
    bool kept = false;
    if (state != NULL) {
        HUB_LOCK_DEAD(state);
        if (state->dead_frame_count < HUB_FREE_LIST_MAX) {
            self->session = (hub_session *)(void *)state->dead_frames;
            state->dead_frames = self;
            state->dead_frame_count++;
            kept = true;
        }
        HUB_UNLOCK_DEAD(state);
    }
    if (!kept)
        PyObject_Free(self);
    Py_DECREF(type);
}

void bnd_frame_objects_forget(hub_state *state)
{
    HUB_LOCK_DEAD(state);
    FrameObject *next = state->dead_frames;
    state->dead_frames = NULL;
    state->dead_frame_count = HUB_FREE_LIST_MAX; /* none is kept from now on */
    HUB_UNLOCK_DEAD(state);
    while (next != NULL) {
        FrameObject *self = next;
        next = (FrameObject *)(void *)self->session;
        PyObject_Free(self);
    }
}

static PyObject *unusable(const FrameObject *self)
{
    const char *why = self->holding == HUB_MOVED  ? "frame was sent on: its payload is not yours"
                      : self->holding == HUB_BUSY ? "frame is being sent on by another thread"
                                                  : "frame was released: its payload is gone";
    PyErr_SetString(PyExc_ValueError, why);
    return NULL;
}

const void *bnd_frame_object_data(const FrameObject *self)
{
    return self->frame.slot.data != NULL ? self->frame.slot.data : self->frame.inline_data;
}

/* ---- pinning ------------------------------------------------------------- */
static int pin(FrameObject *self)
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

static void unpin(FrameObject *self)
{
    hub_session *session = NULL;
    hub_slot slot;
    HUB_BEGIN_CRITICAL(self);
    self->exports--;
    if (self->exports == 0 && self->holding != HUB_HELD)
        session = take_out(self, &slot);
    HUB_END_CRITICAL();
    give_back(session, &slot);
}

/* Give the payload up: `holding` says how. */
static void let_go(FrameObject *self, enum hub_holding holding)
{
    hub_session *session = NULL;
    hub_slot slot;
    HUB_BEGIN_CRITICAL(self);
    if (self->holding == HUB_HELD) {
        self->holding = holding;
        if (self->exports == 0)
            session = take_out(self, &slot);
    }
    HUB_END_CRITICAL();
    give_back(session, &slot);
}

/* ---- sending on: used by transport_send.c -------------------------------- */
int bnd_frame_object_claim(FrameObject *self, const hub_session *session)
{
    bool held, movable;
    HUB_BEGIN_CRITICAL(self);
    held = self->holding == HUB_HELD;
    movable = held && self->exports == 0 && self->session == session;
    if (movable)
        self->holding = HUB_BUSY;
    else if (held)
        self->exports++; /* inline, shown by views, or another hub's: copied */
    HUB_END_CRITICAL();
    if (!held) {
        unusable(self);
        return -1;
    }
    return movable;
}

void bnd_frame_object_settle(FrameObject *self, int claim, bool sent)
{
    if (claim == 0) {
        if (sent)
            let_go(self, HUB_MOVED);
        unpin(self);
        return;
    }
    hub_session *session = NULL;
    hub_slot slot;
    HUB_BEGIN_CRITICAL(self);
    self->holding = sent ? HUB_MOVED : HUB_HELD;
    if (sent)
        session = take_out(self, &slot);
    HUB_END_CRITICAL();
    if (session != NULL)
        hub_session_unhold(session); /* the slot itself is the receiver's now */
}

/* ---- its slot, for what is to be sent in its place ------------------------- */
static PyObject *frame_place(FrameObject *self, PyObject *data)
{
    Py_buffer view;
    if (bnd_arg_buffer(data, "place", &view) < 0)
        return NULL;
    uintptr_t begin = (uintptr_t)bnd_frame_object_data(self), at = (uintptr_t)view.buf;
    bool inside = self->holding == HUB_HELD && at >= begin &&
                  (uint64_t)(at - begin) <= self->frame.length &&
                  (uint64_t)view.len <= self->frame.length - (uint64_t)(at - begin);
    PyBuffer_Release(&view);
    if (!inside)
        Py_RETURN_NONE;
    return PyLong_FromSize_t((size_t)(at - begin));
}

/* The slot is the caller's, with the frame's hold of its session; or NULL and an exception. */
static hub_session *give_up_slot(FrameObject *self, hub_slot *ret)
{
    hub_session *session = NULL;
    bool held, shown, has_slot;
    HUB_BEGIN_CRITICAL(self);
    held = self->holding == HUB_HELD;
    shown = self->exports > 0;
    has_slot = self->session != NULL;
    if (held && has_slot && !shown) {
        self->holding = HUB_MOVED;
        session = take_out(self, ret);
    }
    HUB_END_CRITICAL();
    if (!held) {
        unusable(self);
    } else if (!has_slot) {
        PyErr_SetString(PyExc_ValueError, "frame has no slot: its payload came inline");
    } else if (shown) {
        PyErr_SetString(PyExc_BufferError, "cannot take the slot of a frame that views still show: "
                                           "delete the array or view first");
    }
    return session;
}

static PyObject *frame_take(FrameObject *self, PyObject *Py_UNUSED(unused))
{
    hub_state *state = bnd_state_of_type(Py_TYPE(self));
    SlotObject *taken = state == NULL ? NULL : bnd_slot_object_new(state);
    hub_slot slot;
    if (taken == NULL)
        return NULL;
    hub_session *session = give_up_slot(self, &slot);
    if (session == NULL) {
        Py_DECREF(taken);
        return NULL;
    }
    bnd_slot_object_fill(taken, session, &slot, self->frame.length);
    hub_session_unhold(session); /* the Slot has its own hold */
    return (PyObject *)taken;
}

/* ---- buffer -------------------------------------------------------------- */
static int frame_getbuffer(FrameObject *self, Py_buffer *view, int flags)
{
    if (pin(self) < 0) {
        view->obj = NULL;
        return -1;
    }
    int rc = PyBuffer_FillInfo(view, (PyObject *)self, (void *)bnd_frame_object_data(self),
                               (Py_ssize_t)self->frame.length, !self->writable, flags);
    if (rc < 0)
        unpin(self);
    return rc;
}

static void frame_releasebuffer(FrameObject *self, Py_buffer *Py_UNUSED(view))
{
    unpin(self);
}

static PyObject *frame_bytes(FrameObject *self, PyObject *Py_UNUSED(unused))
{
    if (pin(self) < 0)
        return NULL;
    uint64_t length = self->frame.length;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes != NULL) {
        const void *data = bnd_frame_object_data(self);
        if (length < HUB_COPY_WITHOUT_GIL) {
            memcpy(PyBytes_AS_STRING(bytes), data, length);
        } else {
            Py_BEGIN_ALLOW_THREADS
            memcpy(PyBytes_AS_STRING(bytes), data, length);
            Py_END_ALLOW_THREADS
        }
    }
    unpin(self);
    return bytes;
}

/* ---- methods and attributes ---------------------------------------------- */
static PyObject *frame_get_payload(FrameObject *self, void *Py_UNUSED(unused))
{
    return PyMemoryView_FromObject((PyObject *)self);
}

static PyObject *frame_release(FrameObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->holding == HUB_BUSY)
        return unusable(self);
    let_go(self, HUB_RELEASED);
    Py_RETURN_NONE;
}

static PyObject *frame_enter(FrameObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->holding != HUB_HELD)
        return unusable(self);
    return Py_NewRef(self);
}

static PyObject *frame_exit(FrameObject *self, PyObject *Py_UNUSED(args))
{
    return frame_release(self, NULL);
}

static PyObject *frame_reply_to(FrameObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("{s:i,s:i,s:i,s:K}", "to", (int)self->frame.peer_id, "channel",
                         (int)self->frame.message.channel, "method",
                         (int)self->frame.message.method, "message_id",
                         (unsigned long long)self->frame.message.message_id);
}

static Py_ssize_t frame_length(FrameObject *self)
{
    return (Py_ssize_t)self->frame.length;
}

static PyObject *frame_get_deadline(FrameObject *self, void *Py_UNUSED(unused))
{
    int64_t ns = self->frame.message.deadline_ns;
    if (ns == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)ns / 1e9);
}

static PyObject *frame_get_released(FrameObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->holding == HUB_RELEASED || self->holding == HUB_MOVED);
}

static PyObject *frame_get_shown(FrameObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->exports > 0);
}

static PyObject *frame_repr(FrameObject *self)
{
    static const char *const words[] = {"", ", being sent on", ", released", ", sent on"};
    return PyUnicode_FromFormat("<Frame from peer %d, message %llu, %llu bytes%s>",
                                (int)self->frame.peer_id,
                                (unsigned long long)self->frame.message.message_id,
                                (unsigned long long)self->frame.length, words[self->holding]);
}

/* ---- type ---------------------------------------------------------------- */
static PyMethodDef frame_methods[] = {
    {"release", (PyCFunction)frame_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\n"
               "Give the payload back, with its last view. Does nothing after the first time.")},
    {"reply_to", (PyCFunction)frame_reply_to, METH_NOARGS,
     PyDoc_STR("reply_to($self, /)\n--\n\n"
               "dict(to=, channel=, method=, message_id=) for a send that answers this message.")},
    {"place", (PyCFunction)frame_place, METH_O,
     PyDoc_STR("place($self, data, /)\n--\n\n"
               "Offset of a buffer that lies within the payload, or None: it lies elsewhere.")},
    {"take", (PyCFunction)frame_take, METH_NOARGS,
     PyDoc_STR("take($self, /)\n--\n\n"
               "The payload's slot, to be filled and sent as one's own; the frame is then empty.\n"
               "BufferError while views show it, ValueError when it came inline.")},
    {"__bytes__", (PyCFunction)frame_bytes, METH_NOARGS,
     PyDoc_STR("__bytes__($self, /)\n--\n\nA copy of the payload.")},
    {"__enter__", (PyCFunction)frame_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)frame_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define MESSAGE_FIELD(field) offsetof(FrameObject, frame.message.field)
static PyMemberDef frame_members[] = {
    {"message_id", T_ULONGLONG, MESSAGE_FIELD(message_id), READONLY,
     PyDoc_STR("64 bits that the sender chose, or its count of messages.")},
    {"flags", T_UINT, MESSAGE_FIELD(flags), READONLY, PyDoc_STR("32 bits.")},
    {"channel", T_USHORT, MESSAGE_FIELD(channel), READONLY, PyDoc_STR("A label, 0 to 65535.")},
    {"method", T_USHORT, MESSAGE_FIELD(method), READONLY, PyDoc_STR("A label, 0 to 65535.")},
    {"peer_id", T_USHORT, offsetof(FrameObject, frame.peer_id), READONLY,
     PyDoc_STR("Who sent it; 0 is the host.")},
    {"crowded", T_BOOL, offsetof(FrameObject, crowded), READONLY,
     PyDoc_STR("Was its slot beyond the receiver's share when it came? Copy and release it then.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef frame_getset[] = {
    {"payload", (getter)frame_get_payload, NULL,
     PyDoc_STR("A new memoryview of the payload; read-only unless the transport is writable."),
     NULL},
    {"deadline", (getter)frame_get_deadline, NULL,
     PyDoc_STR("Absolute time.monotonic() seconds, or None. Advisory."), NULL},
    {"released", (getter)frame_get_released, NULL, PyDoc_STR("Was it released or sent on?"), NULL},
    {"shown", (getter)frame_get_shown, NULL, PyDoc_STR("Do views of the payload live?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot frame_slots[] = {
    {Py_tp_doc, (void *)frame_doc},
    {Py_tp_dealloc, frame_dealloc},
    {Py_tp_repr, frame_repr},
    {Py_tp_methods, frame_methods},
    {Py_tp_members, frame_members},
    {Py_tp_getset, frame_getset},
    {Py_sq_length, frame_length},
    {Py_bf_getbuffer, frame_getbuffer},
    {Py_bf_releasebuffer, frame_releasebuffer},
    {0, NULL},
};

PyType_Spec bnd_frame_spec = {
    .name = "shmhub._core.Frame",
    .basicsize = sizeof(FrameObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = frame_slots,
};
