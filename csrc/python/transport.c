/* transport.c - _core.Transport: its life, its attributes and its method table.
 * What it does is in transport_send.c, _send_many.c, _recv.c, _alloc.c, _gone.c, _rpc.c.
 *
 * Objects here are safe from several threads: the core's transport is, and what
 * this struct adds is changed under HUB_BEGIN_CRITICAL. */
#include "held.h"
#include "transport.h"

PyDoc_STRVAR(transport_doc,
"Transport(owner, doorbell, name, writable)\n--\n\n"
"Sends and receives. A Host and one of its Doorbells: to that peer. A Host and None:\n"
"to all peers. A registered Peer and its Doorbell: to the host; waits for the host's\n"
"answer. writable: received payloads may be written to. Raises PeerStateError,\n"
"PeerGoneError, HostGoneError, HubTimeoutError. Safe from several threads.");

/* A host answers from its service thread; only one that is stopped takes long. */
#define ATTACH_TIMEOUT_NS ((int64_t)60 * 1000000000)

/* ---- errors -------------------------------------------------------------- */
int bnd_transport_enter(TransportObject *self, const char *tried)
{
    if (self->transport != NULL) {
        bnd_transport_go_in(self);
        return 0;
    }
    if (self->users.was_open)
        bnd_raise(self->state, HUB_ECLOSED, NULL, "%s() on transport '%U'", tried, self->name);
    else
        bnd_raise(self->state, HUB_ECLOSED, NULL, "%s() on a transport that was never opened",
                  tried);
    return -1;
}

void bnd_transport_let_go(TransportObject *self)
{
    hub_transport *transport = self->transport;
    if (transport == NULL)
        return;
    if (!hub_session_forked(self->session)) /* its locks may be held there, for ever */
        hub_transport_stat_read(transport, &self->last_stat);
    self->transport = NULL;
    self->session = NULL;
    hub_transport_unref(transport); /* closes, if nobody has */
}

PyObject *bnd_transport_raise(TransportObject *self, int code, const char *tried, uint32_t to)
{
    if (PyErr_Occurred())
        return NULL;
    if (code == HUB_EPEERGONE || code == HUB_EHOSTGONE)
        return bnd_transport_raise_gone(self, tried, to);
    if (to != HUB_TO_DEFAULT)
        return bnd_raise(self->state, code, NULL, "%s() on transport '%U', to peer %u", tried,
                         self->name, to);
    return bnd_raise(self->state, code, NULL, "%s() on transport '%U'", tried, self->name);
}

int bnd_transport_target(TransportObject *self, PyObject *value, const char *tried, uint32_t *ret)
{
    *ret = HUB_TO_DEFAULT;
    uint64_t to;
    if (value == NULL || value == Py_None) {
        if (self->kind != HUB_KIND_ALL_PEERS)
            return 0;
        PyErr_Format(PyExc_ValueError,
                     "%s() on transport '%U', which serves all peers: say to which, with "
                     "to=peer_id",
                     tried, self->name);
        return -1;
    }
    if (bnd_arg_unsigned(value, "to", HUB_PEERS_MAX - 1, &to) < 0)
        return -1;
    if (self->kind == HUB_KIND_ALL_PEERS) {
        *ret = (uint32_t)to;
        if (to != 0)
            return 0;
        PyErr_SetString(PyExc_ValueError, "to=0 is the host itself: give the id of a peer");
        return -1;
    }
    if (to == self->other_id) /* frame.reply_to() says so, too */
        return 0;
    PyErr_Format(PyExc_ValueError, "%s() on transport '%U': it leads to peer %u only, not to %R",
                 tried, self->name, self->other_id, value);
    return -1;
}

/* ---- life ---------------------------------------------------------------- */
static PyObject *transport_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                               PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = bnd_module_of_type(type);
    if (module == NULL)
        return NULL;
    TransportObject *self = (TransportObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(module);
        return NULL;
    }
    self->module = module;
    self->state = PyModule_GetState(module);
    return (PyObject *)self;
}

static int open_host(TransportObject *self, SessionObject *owner, DoorbellObject *doorbell,
                     const char *name, hub_fault *fault)
{
    if (doorbell == NULL) {
        self->kind = HUB_KIND_ALL_PEERS;
        return hub_transport_open_host(owner->session, name, &self->transport, fault);
    }
    self->kind = HUB_KIND_HOST_PEER;
    self->other_id = hub_link_peer_id(doorbell->link);
    return hub_transport_open_host_peer(owner->session, doorbell->link, name, &self->transport,
                                        fault);
}

/* The core goes on where it was after each signal. HUB_EINTR: a handler has raised. */
static int open_peer(TransportObject *self, SessionObject *owner, DoorbellObject *doorbell,
                     const char *name, hub_fault *fault)
{
    int64_t deadline = bnd_arg_deadline_of(ATTACH_TIMEOUT_NS);
    hub_transport *transport = NULL;
    self->kind = HUB_KIND_PEER;
    for (;;) {
        int rc;
        Py_BEGIN_ALLOW_THREADS
        rc = hub_transport_open_peer(owner->session, doorbell->fd, name, deadline, &transport,
                                     fault);
        Py_END_ALLOW_THREADS
        if (rc != HUB_EINTR) {
            self->transport = transport;
            return rc;
        }
        if (PyErr_CheckSignals() < 0)
            return rc;
    }
}

/* A doorbell has one reader. 0, or -1 with an exception. */
static int take_doorbell(TransportObject *self, SessionObject *owner, DoorbellObject *doorbell,
                         bool is_host)
{
    if (is_host && doorbell->owner != owner) {
        PyErr_SetString(PyExc_ValueError,
                        "the Doorbell is not one that this host's add_peer gave");
        return -1;
    }
    if (!is_host && doorbell->owner != NULL) {
        PyErr_SetString(PyExc_ValueError,
                        "the Doorbell is the host's end: make one of the descriptor that the host "
                        "handed to this process");
        return -1;
    }
    bool taken;
    HUB_BEGIN_CRITICAL(doorbell);
    taken = doorbell->taken;
    if (!taken)
        doorbell->taken = true;
    HUB_END_CRITICAL();
    if (taken) {
        bnd_raise(self->state, HUB_EBUSY, NULL, "making transport '%U'", self->name);
        return -1;
    }
    if (is_host ? doorbell->link != NULL : doorbell->fd >= 0)
        return 0;
    doorbell->taken = false;
    bnd_raise(self->state, HUB_ECLOSED, NULL, "making transport '%U' of a doorbell", self->name);
    return -1;
}

static int open_core(TransportObject *self, SessionObject *owner, DoorbellObject *doorbell,
                     bool is_host)
{
    const char *name = PyUnicode_AsUTF8(self->name);
    if (name == NULL || (doorbell != NULL && take_doorbell(self, owner, doorbell, is_host) < 0))
        return -1;
    self->held = bnd_held_new(owner->session);
    if (self->held == NULL) {
        if (doorbell != NULL)
            doorbell->taken = false;
        PyErr_NoMemory();
        return -1;
    }
    hub_fault fault = {0};
    int rc = is_host ? open_host(self, owner, doorbell, name, &fault)
                     : open_peer(self, owner, doorbell, name, &fault);
    if (rc < 0) {
        self->transport = NULL;
        bnd_held_unref(self->held);
        self->held = NULL;
        if (doorbell != NULL)
            doorbell->taken = false;
        bnd_raise(self->state, rc, &fault, "making transport '%U'", self->name);
        return -1;
    }
    if (!is_host)
        doorbell->fd = -1; /* the core's transport owns it now */
    self->session = hub_transport_session(self->transport);
    self->own_id = owner->id;
    self->users.was_open = true;
    self->owner = Py_NewRef(owner);
    self->doorbell = Py_XNewRef(doorbell);
    return 0;
}

static int check_arguments(TransportObject *self, PyObject *owner, PyObject *doorbell,
                           bool *ret_is_host)
{
    hub_state *state = self->state;
    bool is_host = PyObject_TypeCheck(owner, state->host_type);
    if (!is_host && !PyObject_TypeCheck(owner, state->peer_type)) {
        PyErr_Format(PyExc_TypeError, "a transport belongs to a Host or a Peer, not to %.100s",
                     Py_TYPE(owner)->tp_name);
        return -1;
    }
    bool rings = PyObject_TypeCheck(doorbell, state->doorbell_type);
    if (!rings && !(is_host && doorbell == Py_None)) {
        PyErr_Format(PyExc_TypeError, "a transport's doorbell is a Doorbell%s, not %.100s",
                     is_host ? " or None" : "", Py_TYPE(doorbell)->tp_name);
        return -1;
    }
    *ret_is_host = is_host;
    return 0;
}

static int transport_init(TransportObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"owner", "doorbell", "name", "writable", NULL};
    PyObject *owner, *doorbell, *name;
    int writable;
    bool is_host;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOUp:Transport", names, &owner, &doorbell,
                                     &name, &writable))
        return -1;
    if (self->users.was_open) {
        PyErr_SetString(PyExc_RuntimeError, "this transport was opened already: make a new one");
        return -1;
    }
    if (check_arguments(self, owner, doorbell, &is_host) < 0 ||
        bnd_session_object_enter((SessionObject *)owner, "making a transport") < 0)
        return -1;
    Py_XSETREF(self->name, Py_NewRef(name));
    self->writable = writable != 0;
    int rc = open_core(self, (SessionObject *)owner,
                       doorbell == Py_None ? NULL : (DoorbellObject *)doorbell, is_host);
    bnd_session_object_leave((SessionObject *)owner);
    return rc;
}

static int transport_traverse(TransportObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    Py_VISIT(self->owner);
    Py_VISIT(self->doorbell);
    Py_VISIT(self->on_gone);
    return 0;
}

static int transport_clear(TransportObject *self)
{
    /* The module and the owner stay: close() may still be called by a finalizer. */
    Py_CLEAR(self->on_gone);
    return 0;
}

static void transport_dealloc(TransportObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    bnd_transport_let_go(self); /* before its owner goes */
    bnd_transport_forget_spares(self);
    Py_CLEAR(self->on_gone);
    bnd_held_unref(self->held);
    Py_CLEAR(self->gone_ids);
    Py_CLEAR(self->doorbell);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->name);
    Py_CLEAR(self->module);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *transport_close(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->transport == NULL)
        Py_RETURN_NONE;
    bnd_transport_go_in(self);
    Py_BEGIN_ALLOW_THREADS
    hub_transport_close(self->transport);
    Py_END_ALLOW_THREADS
    /* In a forked child it stays, to tell those who use it what it is. */
    if (!hub_session_forked(self->session))
        self->users.closing = true;
    bnd_transport_leave(self);
    Py_RETURN_NONE;
}

/* ---- attributes ---------------------------------------------------------- */
static PyObject *transport_fileno(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (bnd_transport_enter(self, "fileno") < 0)
        return NULL;
    int fd = hub_transport_fd(self->transport);
    bool forked = hub_session_forked(self->session);
    bnd_transport_leave(self);
    if (fd < 0)
        return bnd_transport_raise(self, forked ? HUB_EFORKED : HUB_ECLOSED, "fileno",
                                   HUB_TO_DEFAULT);
    return PyLong_FromLong(fd);
}

static PyObject *transport_drain(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->transport != NULL)
        hub_drain(self->transport);
    Py_RETURN_NONE;
}

static PyObject *transport_raw_statistics(TransportObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->transport == NULL)
        return bnd_statistics_transport(&self->last_stat);
    if (hub_session_forked(self->session))
        return bnd_transport_raise(self, HUB_EFORKED, "raw_statistics", HUB_TO_DEFAULT);
    hub_transport_stat stat;
    hub_transport_stat_read(self->transport, &stat);
    return bnd_statistics_transport(&stat);
}

static PyObject *transport_get_closed(TransportObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->transport == NULL || hub_transport_closed(self->transport));
}

static PyObject *transport_get_name(TransportObject *self, void *Py_UNUSED(unused))
{
    return self->name != NULL ? Py_NewRef(self->name) : PyUnicode_FromString("");
}

static PyObject *transport_get_held(TransportObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(self->held != NULL ? self->held->bytes : 0);
}

static PyObject *transport_get_peer_id(TransportObject *self, void *Py_UNUSED(unused))
{
    if (!self->users.was_open || self->kind == HUB_KIND_ALL_PEERS)
        Py_RETURN_NONE;
    if (self->kind == HUB_KIND_PEER)
        return PyLong_FromUnsignedLong(self->own_id);
    return PyLong_FromUnsignedLong(self->other_id);
}

static PyObject *transport_repr(TransportObject *self)
{
    if (!self->users.was_open)
        return PyUnicode_FromFormat("<%s, not open>", Py_TYPE(self)->tp_name);
    bool open = self->transport != NULL && !hub_transport_closed(self->transport);
    const char *closed = open ? "" : ", closed";
    if (self->kind == HUB_KIND_ALL_PEERS)
        return PyUnicode_FromFormat("<%s '%U' to all peers%s>", Py_TYPE(self)->tp_name, self->name,
                                    closed);
    if (self->kind == HUB_KIND_PEER)
        return PyUnicode_FromFormat("<%s '%U' to the host%s>", Py_TYPE(self)->tp_name, self->name,
                                    closed);
    return PyUnicode_FromFormat("<%s '%U' to peer %u%s>", Py_TYPE(self)->tp_name, self->name,
                                self->other_id, closed);
}

/* ---- type ---------------------------------------------------------------- */
#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function))
#define FASTCALL_FLAGS (METH_FASTCALL | METH_KEYWORDS)
#define SEND_KEYWORDS "to=None, channel=0, method=0, flags=0, message_id=None, deadline=None"
#define SEND_MANY_KEYWORDS "to=None, channel=0, method=0, flags=0, deadline=None"

static PyMethodDef transport_methods[] = {
    {"alloc", FASTCALL(bnd_transport_alloc), FASTCALL_FLAGS,
     PyDoc_STR("alloc($self, nbytes, *, timeout=None)\n--\n\n"
               "A Slot of nbytes; waits for one. timeout in seconds. Raises HubTimeoutError,\n"
               "PayloadTooLargeError, HubNoSpaceError, Host/PeerGoneError, HubClosedError.")},
    {"alloc_nowait", FASTCALL(bnd_transport_alloc_nowait), FASTCALL_FLAGS,
     PyDoc_STR("alloc_nowait($self, nbytes)\n--\n\nA Slot of nbytes, or SlotsExhaustedError.")},
    {"send", FASTCALL(bnd_transport_send), FASTCALL_FLAGS,
     PyDoc_STR("send($self, payload=b'', /, *, " SEND_KEYWORDS ", timeout=None)\n--\n\n"
               "Send a buffer (copied), a Slot (moved) or a Frame (passed on) -> message id.\n"
               "Waits for room. On any exception nothing was sent, and a slot is still yours.")},
    {"send_nowait", FASTCALL(bnd_transport_send_nowait), FASTCALL_FLAGS,
     PyDoc_STR("send_nowait($self, payload=b'', /, *, " SEND_KEYWORDS ")\n--\n\n"
               "As send(); RingFullError or SlotsExhaustedError instead of waiting.")},
    {"send_many", FASTCALL(bnd_transport_send_many), FASTCALL_FLAGS,
     PyDoc_STR("send_many($self, payloads, /, *, " SEND_MANY_KEYWORDS ", timeout=None)\n--\n\n"
               "Send several in order -> message ids. An exception's .sent says how many went.")},
    {"send_many_nowait", FASTCALL(bnd_transport_send_many_nowait), FASTCALL_FLAGS,
     PyDoc_STR("send_many_nowait($self, payloads, /, *, " SEND_MANY_KEYWORDS ")\n--\n\n"
               "As send_many() without waiting.")},
    {"recv", FASTCALL(bnd_transport_recv), FASTCALL_FLAGS,
     PyDoc_STR("recv($self, timeout=None)\n--\n\n"
               "The next Frame; waits for it. timeout in seconds. Raises HubTimeoutError,\n"
               "Host/PeerGoneError (.clean: in good order), HubClosedError.")},
    {"recv_nowait", (PyCFunction)bnd_transport_recv_nowait, METH_NOARGS,
     PyDoc_STR("recv_nowait($self, /)\n--\n\n"
               "The next Frame, or WouldBlockError: fileno() becomes readable when to try again.")},
    {"recv_many", FASTCALL(bnd_transport_recv_many), FASTCALL_FLAGS,
     PyDoc_STR("recv_many($self, max, timeout=None)\n--\n\n"
               "Up to max Frames as a list; waits for the first only.")},
    {"recv_many_nowait", FASTCALL(bnd_transport_recv_many_nowait), FASTCALL_FLAGS,
     PyDoc_STR("recv_many_nowait($self, max)\n--\n\nAs recv_many() without waiting.")},
    {"drain", (PyCFunction)transport_drain, METH_NOARGS,
     PyDoc_STR("drain($self, /)\n--\n\n"
               "For event loops: take what made fileno() readable. Then everyone who waits in the\n"
               "loop must poll, as it may have been meant for any of them.")},
    {"poll_recv", (PyCFunction)bnd_transport_poll_recv, METH_NOARGS,
     PyDoc_STR("poll_recv($self, /)\n--\n\n"
               "For event loops: the next Frame, or None: wait until fileno() is readable,\n"
               "drain(), call again.")},
    {"poll_send", FASTCALL(bnd_transport_poll_send), FASTCALL_FLAGS,
     PyDoc_STR("poll_send($self, payload=b'', /, *, " SEND_KEYWORDS ")\n--\n\n"
               "For event loops: message id, or None: wait until fileno() is readable, drain(),\n"
               "call again, or end with poll_cancel('send').")},
    {"poll_alloc", (PyCFunction)bnd_transport_poll_alloc, METH_O,
     PyDoc_STR("poll_alloc($self, nbytes, /)\n--\n\n"
               "For event loops: a Slot, or None: wait until fileno() is readable, drain(), call\n"
               "again, or end with poll_cancel('alloc').")},
    {"poll_cancel", (PyCFunction)bnd_transport_poll_cancel, METH_O,
     PyDoc_STR("poll_cancel($self, kind, /)\n--\n\n"
               "'send' or 'alloc': nobody waits for that any more.")},
    {"post", FASTCALL(bnd_transport_post), METH_FASTCALL,
     PyDoc_STR("post($self, payload, to, channel, method, flags, message_id, deadline, timeout, /)"
               "\n--\n\n"
               "send() for shmhub's own protocols: any channel, any flags, everything by position.\n"
               "`to` is ignored where there is one other side only.")},
    {"post_quietly", FASTCALL(bnd_transport_post_quietly), METH_FASTCALL,
     PyDoc_STR("post_quietly($self, payload, to, channel, method, flags, message_id, deadline, /)"
               "\n--\n\n"
               "post() of an inline payload that wakes nobody: wake() must follow. False: it does\n"
               "not go at once, and was not sent.")},
    {"wake", (PyCFunction)bnd_transport_wake, METH_O,
     PyDoc_STR("wake($self, to, /)\n--\n\nWake that side for what was posted quietly.")},
    {"collect", FASTCALL(bnd_transport_collect), METH_FASTCALL,
     PyDoc_STR("collect($self, inbox, channel, message_id, timeout, /)\n--\n\n"
               "Receive one frame. One of that channel and message id (None: any) is returned; any\n"
               "other, and the PeerGoneError of one peer of several, is appended to the list inbox\n"
               "and None is returned, as when the time is up or a signal was handled. What has left the ring is in one\n"
               "of the two places, whatever a signal handler raises afterwards.")},
    {"collect_all", FASTCALL(bnd_transport_collect_all), METH_FASTCALL,
     PyDoc_STR("collect_all($self, inbox, max, timeout, /)\n--\n\n"
               "Append what is there to the list inbox, until that has max; waits for the first.")},
    {"alloc_to", FASTCALL(bnd_transport_alloc_to), METH_FASTCALL,
     PyDoc_STR("alloc_to($self, nbytes, to, timeout, /)\n--\n\n"
               "alloc() for a message to that peer: its death ends the wait, too.")},
    {"interrupt", (PyCFunction)bnd_transport_interrupt, METH_NOARGS,
     PyDoc_STR("interrupt($self, /)\n--\n\n"
               "Let a collect() that sleeps, or else the next one that would, return None.")},
    {"set_hold_limit", (PyCFunction)bnd_transport_set_hold_limit, METH_O,
     PyDoc_STR("set_hold_limit($self, nbytes, /)\n--\n\n"
               "Frames that come while more is held than that are `crowded`.")},
    {"pop_gone", (PyCFunction)bnd_transport_pop_gone, METH_NOARGS,
     PyDoc_STR("pop_gone($self, /)\n--\n\n"
               "(peer_id, epoch, clean, pid, undelivered) of a peer that is gone and not yet\n"
               "reported, or None.")},
    {"set_on_gone", (PyCFunction)bnd_transport_set_on_gone, METH_O,
     PyDoc_STR("set_on_gone($self, callable, /)\n--\n\n"
               "Call it with (peer_id, epoch, clean, pid, undelivered) from receives instead of\n"
               "raising PeerGoneError there. None: raise again.")},
    {"fileno", (PyCFunction)transport_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self, /)\n--\n\nReadable: what would have blocked is worth another try.")},
    {"raw_statistics", (PyCFunction)transport_raw_statistics, METH_NOARGS,
     PyDoc_STR("raw_statistics($self, /)\n--\n\nCounters as a dict.")},
    {"close", (PyCFunction)transport_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\n"
               "Leave in good order; threads that wait in it get HubClosedError. Idempotent.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef transport_getset[] = {
    {"closed", (getter)transport_get_closed, NULL, PyDoc_STR("Is it closed?"), NULL},
    {"name", (getter)transport_get_name, NULL, PyDoc_STR("What it was named."), NULL},
    {"held", (getter)transport_get_held, NULL,
     PyDoc_STR("Bytes of slots whose frames were received here and are not given back."), NULL},
    {"peer_id", (getter)transport_get_peer_id, NULL,
     PyDoc_STR("The peer's id (its own, on a peer's side); None: all peers."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot transport_slots[] = {
    {Py_tp_doc, (void *)transport_doc},
    {Py_tp_new, transport_new},
    {Py_tp_init, transport_init},
    {Py_tp_dealloc, transport_dealloc},
    {Py_tp_traverse, transport_traverse},
    {Py_tp_clear, transport_clear},
    {Py_tp_repr, transport_repr},
    {Py_tp_methods, transport_methods},
    {Py_tp_getset, transport_getset},
    {0, NULL},
};

PyType_Spec bnd_transport_spec = {
    .name = "shmhub._core.Transport",
    .basicsize = sizeof(TransportObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = transport_slots,
};
