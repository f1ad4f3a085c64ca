/* host.c - _core.Host: the creator's side of a hub, and its peers. */
#include "args.h"

#include <string.h>

PyDoc_STRVAR(host_doc,
"Host(path, classes, max_peers, ring_capacity, max_bytes, spin_ns)\n--\n\n"
"Create a hub. path: str, or None for an anonymous memfd. classes: a tuple of\n"
"(slot_size in bytes, slots, max_slots). max_bytes: 0 = default. spin_ns: -1\n"
"adaptive, 0 never, else the most nanoseconds. Raises HubExistsError,\n"
"HubNoSpaceError, UnsupportedPlatformError, ValueError, OSError. All methods may be\n"
"called from any thread.");

/* ---- creation ------------------------------------------------------------ */
static int parse_class(PyObject *item, Py_ssize_t index, hub_class_config *ret)
{
    uint64_t slot_size, slots, max_slots;
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 3) {
        PyErr_Format(PyExc_TypeError,
                     "classes[%zd] must be a tuple (slot_size, slots, max_slots), not %R", index,
                     item);
        return -1;
    }
    if (bnd_arg_unsigned(PyTuple_GET_ITEM(item, 0), "slot_size", INT64_MAX, &slot_size) < 0 ||
        bnd_arg_unsigned(PyTuple_GET_ITEM(item, 1), "slots", UINT32_MAX, &slots) < 0 ||
        bnd_arg_unsigned(PyTuple_GET_ITEM(item, 2), "max_slots", UINT32_MAX, &max_slots) < 0)
        return -1;
    ret->slot_size = slot_size;
    ret->slots = (uint32_t)slots;
    ret->max_slots = (uint32_t)max_slots;
    return 0;
}

static int parse_classes(PyObject *classes, hub_config *config)
{
    PyObject *items = PySequence_Tuple(classes);
    if (items == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    int rc = 0;
    if (count < 1 || count > HUB_CLASSES_MAX) {
        PyErr_Format(PyExc_ValueError, "a hub has 1 to %d size classes, not %zd", HUB_CLASSES_MAX,
                     count);
        rc = -1;
    }
    for (Py_ssize_t i = 0; rc == 0 && i < count; i++)
        rc = parse_class(PyTuple_GET_ITEM(items, i), i, &config->classes[i]);
    config->class_count = (uint32_t)count;
    Py_DECREF(items);
    return rc;
}

/* What came out, as it is asked for after close(), too. */
static PyObject *config_tuple(hub_session *session)
{
    hub_config config;
    hub_session_config(session, &config);
    PyObject *classes = bnd_statistics_classes(&config);
    if (classes == NULL)
        return NULL;
    return Py_BuildValue("(NIIKL)", classes, config.max_peers, config.ring_capacity,
                         (unsigned long long)config.max_bytes, (long long)config.spin_ns);
}

static int create(SessionObject *self, const char *path, const hub_config *config)
{
    hub_session *session = NULL;
    hub_fault fault = {0};
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_host_create(path, config, &session, &fault);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        bnd_raise(self->state, rc, &fault, "creating a hub at %s", path != NULL ? path : "a memfd");
        return -1;
    }
    const char *effective = hub_session_path(session);
    PyObject *text = effective == NULL ? Py_NewRef(Py_None) : PyUnicode_DecodeFSDefault(effective);
    PyObject *in_force = text == NULL ? NULL : config_tuple(session);
    if (in_force == NULL) {
        Py_XDECREF(text);
        hub_session_close(session);
        hub_session_unref(session);
        return -1;
    }
    Py_SETREF(self->path, text);
    Py_XSETREF(self->config, in_force);
    self->limited = hub_session_limited(session) != 0;
    self->session = session;
    self->users.was_open = true;
    return 0;
}

static int parse_limits(PyObject *max_peers, PyObject *ring_capacity, PyObject *max_bytes,
                        PyObject *spin_ns, hub_config *config)
{
    uint64_t peers, capacity, bytes;
    if (bnd_arg_unsigned(max_peers, "max_peers", UINT32_MAX, &peers) < 0 ||
        bnd_arg_unsigned(ring_capacity, "ring_capacity", UINT32_MAX, &capacity) < 0 ||
        bnd_arg_unsigned(max_bytes, "max_bytes", INT64_MAX, &bytes) < 0)
        return -1;
    long long spin = PyLong_AsLongLong(spin_ns);
    if (spin == -1 && PyErr_Occurred())
        return -1;
    config->max_peers = (uint32_t)peers;
    config->ring_capacity = (uint32_t)capacity;
    config->max_bytes = bytes;
    config->spin_ns = spin;
    return 0;
}

static int host_init(SessionObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path",      "classes", "max_peers", "ring_capacity",
                            "max_bytes", "spin_ns", NULL};
    PyObject *path, *classes, *max_peers, *ring_capacity, *max_bytes, *spin_ns;
    PyObject *path_bytes = NULL;
    if (bnd_session_object_check_new(self) < 0)
        return -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOO:Host", names, &path, &classes,
                                     &max_peers, &ring_capacity, &max_bytes, &spin_ns))
        return -1;
    hub_config config;
    hub_config_default(&config);
    if (parse_classes(classes, &config) < 0 ||
        parse_limits(max_peers, ring_capacity, max_bytes, spin_ns, &config) < 0)
        return -1;
    if (path != Py_None && !PyUnicode_FSConverter(path, &path_bytes))
        return -1;
    int rc = create(self, path_bytes != NULL ? PyBytes_AS_STRING(path_bytes) : NULL, &config);
    Py_XDECREF(path_bytes);
    return rc;
}

/* ---- peers --------------------------------------------------------------- */
PyDoc_STRVAR(add_peer_doc,
"add_peer($self, name, /)\n--\n\n"
"Reserve a peer id -> (peer_id, epoch, the host's Doorbell, the peer's fd). The fd\n"
"belongs to the Doorbell: close_peer_fd() or the peer's attach closes it.");

static PyObject *host_add_peer(SessionObject *self, PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL || bnd_session_object_enter(self, "add_peer") < 0)
        return NULL;
    hub_link *link = NULL;
    int peer_fd = -1, rc;
    hub_session *session = self->session;
    Py_BEGIN_ALLOW_THREADS /* backs the peer's rings */
    rc = hub_host_add_peer(session, text, &link, &peer_fd);
    Py_END_ALLOW_THREADS
    PyObject *doorbell = rc < 0 ? NULL : bnd_doorbell_of_link(self, link);
    if (rc >= 0 && doorbell == NULL) {
        hub_host_remove_peer(session, hub_link_peer_id(link));
        hub_link_close_peer_fd(link);
        hub_link_unref(link);
    }
    bnd_session_object_leave(self);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "adding peer '%s'", text);
    if (doorbell == NULL)
        return NULL;
    return Py_BuildValue("(IINi)", ((DoorbellObject *)doorbell)->peer_id,
                         ((DoorbellObject *)doorbell)->epoch, doorbell, peer_fd);
}

PyDoc_STRVAR(remove_peer_doc,
"remove_peer($self, peer_id, /)\n--\n\n"
"Cancel a peer that has not attached. PeerStateError if it is alive.");

static PyObject *host_remove_peer(SessionObject *self, PyObject *arg)
{
    int overflow;
    long peer_id = PyLong_AsLongAndOverflow(arg, &overflow);
    if (peer_id == -1 && PyErr_Occurred())
        return NULL;
    if (overflow != 0 || peer_id < 1 || peer_id >= HUB_PEERS_MAX)
        return PyErr_Format(PyExc_ValueError, "peer_id must be from 1 to %d, not %R",
                            HUB_PEERS_MAX - 1, arg);
    if (bnd_session_object_enter(self, "remove_peer") < 0)
        return NULL;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_host_remove_peer(self->session, (uint32_t)peer_id);
    Py_END_ALLOW_THREADS
    bnd_session_object_leave(self);
    if (rc == HUB_ESTATE)
        return bnd_raise(self->state, rc, NULL,
                         "removing peer %ld, which is alive (end its process instead)", peer_id);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "removing peer %ld", peer_id);
    Py_RETURN_NONE;
}

/* The Doorbell, if it is this very host's, or NULL with an exception. */
static DoorbellObject *own_doorbell(SessionObject *self, PyObject *doorbell, const char *tried)
{
    if (!PyObject_TypeCheck(doorbell, self->state->doorbell_type)) {
        PyErr_Format(PyExc_TypeError, "%s() takes a Doorbell, not %.100s", tried,
                     Py_TYPE(doorbell)->tp_name);
        return NULL;
    }
    if (((DoorbellObject *)doorbell)->owner != self) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): the Doorbell is not one that this host's add_peer gave", tried);
        return NULL;
    }
    return (DoorbellObject *)doorbell;
}

static PyObject *host_close_peer_fd(SessionObject *self, PyObject *doorbell)
{
    DoorbellObject *own = own_doorbell(self, doorbell, "close_peer_fd");
    if (own == NULL)
        return NULL;
    if (own->link != NULL)
        hub_link_close_peer_fd(own->link);
    Py_RETURN_NONE;
}

static PyObject *host_watch(SessionObject *self, PyObject *args)
{
    PyObject *doorbell;
    int pidfd;
    if (!PyArg_ParseTuple(args, "Oi:watch", &doorbell, &pidfd))
        return NULL;
    DoorbellObject *own = own_doorbell(self, doorbell, "watch");
    if (own == NULL)
        return NULL;
    int rc = own->link == NULL ? HUB_ECLOSED : hub_link_watch(own->link, pidfd);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "watching pidfd %d for peer %u", pidfd,
                         own->peer_id);
    Py_RETURN_NONE;
}

/* ---- events and statistics ----------------------------------------------- */
static const char *event_name(uint32_t kind)
{
    switch (kind) {
    case HUB_EVENT_ATTACHED: return "attached";
    case HUB_EVENT_LEFT: return "left";
    case HUB_EVENT_DIED: return "died";
    case HUB_EVENT_HUNG_UP: return "hung_up";
    case HUB_EVENT_VIOLATION: return "violation";
    case HUB_EVENT_CANCELLED: return "cancelled";
    default: return "unknown";
    }
}

static PyObject *host_next_event(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    if (self->session == NULL && self->users.was_open)
        Py_RETURN_NONE;
    if (bnd_session_object_enter(self, "next_event") < 0)
        return NULL;
    hub_event event;
    int rc = hub_host_next_event(self->session, &event);
    bnd_session_object_leave(self);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "reading the hub's events");
    if (rc == 0)
        Py_RETURN_NONE;
    event.detail[sizeof event.detail - 1] = '\0';
    PyObject *detail = PyUnicode_DecodeUTF8(event.detail, (Py_ssize_t)strlen(event.detail),
                                            "backslashreplace");
    if (detail == NULL)
        return NULL;
    return Py_BuildValue("(sIIiN)", event_name(event.kind), event.peer_id, event.epoch, event.pid,
                         detail);
}

static PyObject *read_stat(SessionObject *self, const char *tried,
                           PyObject *(*convert)(const hub_stat *))
{
    hub_stat *stat = PyMem_RawMalloc(sizeof *stat);
    if (stat == NULL)
        return PyErr_NoMemory();
    if (bnd_session_object_enter(self, tried) < 0) {
        PyMem_RawFree(stat);
        return NULL;
    }
    int rc;
    Py_BEGIN_ALLOW_THREADS /* looks at every slot */
    rc = hub_session_stat(self->session, stat);
    Py_END_ALLOW_THREADS
    bnd_session_object_leave(self);
    PyObject *result = rc < 0 ? bnd_raise(self->state, rc, NULL, "%s of the hub", tried)
                              : convert(stat);
    PyMem_RawFree(stat);
    return result;
}

static PyObject *host_raw_statistics(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    return read_stat(self, "reading statistics", bnd_statistics_dict);
}

static PyObject *host_raw_peers(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    return read_stat(self, "reading the peers", bnd_statistics_peers);
}

static PyObject *host_trim(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    if (bnd_session_object_enter(self, "trim") < 0)
        return NULL;
    int64_t bytes;
    Py_BEGIN_ALLOW_THREADS
    bytes = hub_session_trim(self->session);
    Py_END_ALLOW_THREADS
    bnd_session_object_leave(self);
    if (bytes < 0)
        return bnd_raise(self->state, (int)bytes, NULL, "trimming the hub");
    return PyLong_FromLongLong(bytes);
}

static PyObject *host_fileno(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    if (bnd_session_object_enter(self, "fileno") < 0)
        return NULL;
    int fd = hub_session_closed(self->session) ? -1 : hub_session_fd(self->session);
    bnd_session_object_leave(self);
    if (fd < 0)
        return bnd_raise(self->state, HUB_ECLOSED, NULL, "fileno() of the hub");
    return PyLong_FromLong(fd);
}

static PyObject *host_get_limited(SessionObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->limited);
}

static PyObject *host_get_config(SessionObject *self, void *Py_UNUSED(unused))
{
    if (self->config != NULL)
        return Py_NewRef(self->config);
    return bnd_raise(self->state, HUB_ECLOSED, NULL, "config of a hub that was never opened");
}

/* ---- type ---------------------------------------------------------------- */
static PyMethodDef host_methods[] = {
    {"add_peer", (PyCFunction)host_add_peer, METH_O, add_peer_doc},
    {"remove_peer", (PyCFunction)host_remove_peer, METH_O, remove_peer_doc},
    {"close_peer_fd", (PyCFunction)host_close_peer_fd, METH_O,
     PyDoc_STR("close_peer_fd($self, doorbell, /)\n--\n\n"
               "Close the host's copy of the peer's end of the doorbell. Idempotent.")},
    {"watch", (PyCFunction)host_watch, METH_VARARGS,
     PyDoc_STR("watch($self, doorbell, pidfd, /)\n--\n\n"
               "Watch a started process: its end cancels an attach that never came. The\n"
               "descriptor is duplicated.")},
    {"close", (PyCFunction)bnd_session_object_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nTell the peers and close the hub. Memory that live views "
               "show stays. Idempotent.")},
    {"next_event", (PyCFunction)host_next_event, METH_NOARGS,
     PyDoc_STR("next_event($self, /)\n--\n\n"
               "(kind, peer_id, epoch, pid, detail), or None when there is none. Never waits.")},
    {"raw_statistics", (PyCFunction)host_raw_statistics, METH_NOARGS,
     PyDoc_STR("raw_statistics($self, /)\n--\n\nCounters of classes and peers as a dict.")},
    {"raw_peers", (PyCFunction)host_raw_peers, METH_NOARGS,
     PyDoc_STR("raw_peers($self, /)\n--\n\n"
               "[(peer_id, name, state, pid, epoch)], without the host itself.")},
    {"trim", (PyCFunction)host_trim, METH_NOARGS,
     PyDoc_STR("trim($self, /)\n--\n\nGive memory of free slots back to the system -> bytes.")},
    {"raw_fsck", (PyCFunction)bnd_host_fsck, METH_O,
     PyDoc_STR("raw_fsck($self, repair, /)\n--\n\n"
               "Check everything in shared memory, and mend it: a dict. The GIL is kept.")},
    {"fileno", (PyCFunction)host_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self, /)\n--\n\nThe descriptor of the hub's memory.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef host_members[] = {
    {"path", T_OBJECT_EX, offsetof(SessionObject, path), READONLY,
     PyDoc_STR("The hub's path, None if it is anonymous.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef host_getset[] = {
    {"closed", (getter)bnd_session_object_get_closed, NULL, PyDoc_STR("Is it closed?"), NULL},
    {"limited", (getter)host_get_limited, NULL,
     PyDoc_STR("Was it made with less room to grow, as address space is limited?"), NULL},
    {"config", (getter)host_get_config, NULL,
     PyDoc_STR("(classes, max_peers, ring_capacity, max_bytes, spin_ns), as they came out."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot host_slots[] = {
    {Py_tp_doc, (void *)host_doc},
    {Py_tp_new, bnd_session_object_new},
    {Py_tp_init, host_init},
    {Py_tp_dealloc, bnd_session_object_dealloc},
    {Py_tp_traverse, bnd_session_object_traverse},
    {Py_tp_clear, bnd_session_object_clear},
    {Py_tp_methods, host_methods},
    {Py_tp_members, host_members},
    {Py_tp_getset, host_getset},
    {0, NULL},
};

PyType_Spec bnd_host_spec = {
    .name = "shmhub._core.Host",
    .basicsize = sizeof(SessionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = host_slots,
};
