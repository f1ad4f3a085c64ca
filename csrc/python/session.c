/* session.c - what Host and Peer share: holding a hub_session, and closing it. */
#include "state.h"

PyObject *bnd_module_of_type(PyTypeObject *type)
{
    /* Methods and __new__ see the Python subclass; our module hangs on the first
     * heap type of its bases that has one. */
    for (PyTypeObject *t = type; t != NULL; t = t->tp_base) {
        if (!PyType_HasFeature(t, Py_TPFLAGS_HEAPTYPE))
            continue;
        PyObject *module = ((PyHeapTypeObject *)t)->ht_module;
        if (module != NULL)
            return Py_NewRef(module);
    }
    PyErr_SetString(PyExc_SystemError, "shmhub._core: the type has lost its module");
    return NULL;
}

PyObject *bnd_session_object_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                                 PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = bnd_module_of_type(type);
    if (module == NULL)
        return NULL;
    SessionObject *self = (SessionObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(module);
        return NULL;
    }
    self->module = module;
    self->state = PyModule_GetState(module);
    self->path = Py_NewRef(Py_None);
    return (PyObject *)self;
}

int bnd_session_object_traverse(SessionObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    return 0;
}

int bnd_session_object_clear(SessionObject *Py_UNUSED(self))
{
    /* The module stays until dealloc: close() may still be called by a finalizer. */
    return 0;
}

/* Drop what keeps the hub's memory mapped on our part. */
static void let_go(SessionObject *self)
{
    hub_session *session = self->session;
    self->session = NULL;
    while (self->doorbells != NULL)
        bnd_doorbell_forget_link(self->doorbells);
    if (session != NULL)
        hub_session_unref(session);
}

void bnd_session_object_dealloc(SessionObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->session != NULL)
        hub_session_close(self->session); /* nothing that this waits for takes the GIL */
    let_go(self);
    Py_CLEAR(self->path);
    Py_CLEAR(self->config);
    Py_CLEAR(self->module);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyObject *bnd_session_object_close(SessionObject *self, PyObject *Py_UNUSED(unused))
{
    hub_session *session = self->session;
    if (session == NULL)
        Py_RETURN_NONE;
    bnd_users_enter(&self->users);
    Py_BEGIN_ALLOW_THREADS /* a host's waits for its service thread */
    hub_session_close(session);
    Py_END_ALLOW_THREADS
    /* In a forked child it stays, to tell those who use it what it is. */
    if (!hub_session_forked(session))
        self->users.closing = true;
    bnd_session_object_leave(self);
    Py_RETURN_NONE;
}

PyObject *bnd_session_object_get_closed(SessionObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->session == NULL || hub_session_closed(self->session));
}

int bnd_session_object_enter(SessionObject *self, const char *tried)
{
    if (self->session != NULL) {
        bnd_users_enter(&self->users);
        return 0;
    }
    bnd_raise(self->state, HUB_ECLOSED, NULL, "%s on a %.100s%s", tried, Py_TYPE(self)->tp_name,
              self->users.was_open ? "" : " that was never opened");
    return -1;
}

void bnd_session_object_leave(SessionObject *self)
{
    if (bnd_users_leave(&self->users))
        let_go(self);
}

int bnd_session_object_check_new(SessionObject *self)
{
    if (!self->users.was_open)
        return 0;
    PyErr_Format(PyExc_RuntimeError, "this %.100s was opened already: make a new one",
                 Py_TYPE(self)->tp_name);
    return -1;
}
