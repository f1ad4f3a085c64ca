/* peer.c - _core.Peer: an attached process's side of a hub. */
#include "state.h"

PyDoc_STRVAR(peer_doc,
"Peer(path, peer_id)\n--\n\n"
"Map the hub at path as peer peer_id; touches nothing of it until register().\n"
"Raises HubFormatError, OSError, ValueError. Methods may be called from any thread.");

static int open_hub(SessionObject *self, PyObject *path_bytes, uint32_t peer_id)
{
    const char *path = PyBytes_AS_STRING(path_bytes);
    hub_session *session = NULL;
    hub_fault fault = {0};
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_peer_open(path, peer_id, &session, &fault);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        bnd_raise(self->state, rc, &fault, "opening the hub at '%s' as peer %u", path, peer_id);
        return -1;
    }
    PyObject *text = PyUnicode_DecodeFSDefault(path);
    if (text == NULL) {
        hub_session_close(session);
        hub_session_unref(session);
        return -1;
    }
    Py_SETREF(self->path, text);
    self->session = session;
    self->id = peer_id;
    self->users.was_open = true;
    return 0;
}

static int peer_init(SessionObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", "peer_id", NULL};
    PyObject *path_bytes = NULL;
    long long peer_id;
    if (bnd_session_object_check_new(self) < 0)
        return -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&L:Peer", names, PyUnicode_FSConverter,
                                     &path_bytes, &peer_id))
        return -1;
    int rc = -1;
    if (peer_id < 1 || peer_id >= HUB_PEERS_MAX)
        PyErr_Format(PyExc_ValueError, "peer_id must be from 1 to %d, not %lld", HUB_PEERS_MAX - 1,
                     peer_id);
    else
        rc = open_hub(self, path_bytes, (uint32_t)peer_id);
    Py_DECREF(path_bytes);
    return rc;
}

PyDoc_STRVAR(register_doc,
"register($self, /)\n--\n\n"
"Claim the id. PeerStateError if the host did not add it or another process has\n"
"claimed it, HostGoneError if the host is gone.");

static PyObject *peer_register(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    if (bnd_session_object_enter(self, "register") < 0)
        return NULL;
    hub_fault fault = {0};
    int rc = hub_peer_register(self->session, &fault);
    bnd_session_object_leave(self);
    if (rc < 0)
        return bnd_raise(self->state, rc, &fault, "registering as peer %u of the hub at '%U'",
                         self->id, self->path);
    Py_RETURN_NONE;
}

static PyObject *peer_get_peer_id(SessionObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(self->id);
}

static PyMethodDef peer_methods[] = {
    {"register", (PyCFunction)peer_register, METH_NOARGS, register_doc},
    {"close", (PyCFunction)bnd_session_object_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nLeave the hub. Memory that live views show stays. "
               "Idempotent.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef peer_members[] = {
    {"path", T_OBJECT_EX, offsetof(SessionObject, path), READONLY,
     PyDoc_STR("The path it was opened by.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef peer_getset[] = {
    {"closed", (getter)bnd_session_object_get_closed, NULL, PyDoc_STR("Is it closed?"), NULL},
    {"peer_id", (getter)peer_get_peer_id, NULL, PyDoc_STR("This process's id in the hub."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot peer_slots[] = {
    {Py_tp_doc, (void *)peer_doc},
    {Py_tp_new, bnd_session_object_new},
    {Py_tp_init, peer_init},
    {Py_tp_dealloc, bnd_session_object_dealloc},
    {Py_tp_traverse, bnd_session_object_traverse},
    {Py_tp_clear, bnd_session_object_clear},
    {Py_tp_methods, peer_methods},
    {Py_tp_members, peer_members},
    {Py_tp_getset, peer_getset},
    {0, NULL},
};

PyType_Spec bnd_peer_spec = {
    .name = "shmhub._core.Peer",
    .basicsize = sizeof(SessionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = peer_slots,
};
