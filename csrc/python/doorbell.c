/* doorbell.c - _core.Doorbell: one end of the socketpair that wakes the other side.
 *
 * Made from a descriptor it owns that descriptor until a transport takes it.  A
 * host's end belongs to the core (a hub_link): nothing here ever closes it but
 * close(), and only while no transport and no peer uses it. */
#include "args.h"

#include <fcntl.h>
#include <unistd.h>

PyDoc_STRVAR(doorbell_doc,
"Doorbell(fd)\n--\n\n"
"One end of a doorbell. fd: a connected AF_UNIX socket, owned from now on.\n"
"Raises ValueError or OSError for anything else.");

/* ---- life ---------------------------------------------------------------- */
static DoorbellObject *doorbell_alloc(PyTypeObject *type, PyObject *module)
{
    DoorbellObject *self = (DoorbellObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->module = Py_NewRef(module);
    self->state = PyModule_GetState(module);
    self->fd = -1;
    return self;
}

static PyObject *doorbell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", NULL};
    PyObject *arg;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Doorbell", names, &arg))
        return NULL;
    int overflow = 0;
    long fd = PyLong_AsLongAndOverflow(arg, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (overflow != 0 || fd < 0 || fd > INT_MAX)
        return PyErr_Format(PyExc_ValueError, "a doorbell is a file descriptor >= 0, not %R", arg);
    PyObject *module = bnd_module_of_type(type);
    if (module == NULL)
        return NULL;
    DoorbellObject *self = NULL;
    hub_fault fault = {0};
    int rc = hub_doorbell_check((int)fd, &fault);
    if (rc < 0)
        bnd_raise(PyModule_GetState(module), rc, &fault, "using descriptor %ld as a doorbell", fd);
    else
        self = doorbell_alloc(type, module);
    if (self != NULL)
        self->fd = (int)fd;
    Py_DECREF(module);
    return (PyObject *)self;
}

PyObject *bnd_doorbell_of_link(SessionObject *host, hub_link *link)
{
    DoorbellObject *self = doorbell_alloc(host->state->doorbell_type, host->module);
    if (self == NULL)
        return NULL;
    self->owner = (SessionObject *)Py_NewRef(host);
    self->link = link; /* the caller's reference becomes ours */
    self->peer_id = hub_link_peer_id(link);
    self->epoch = hub_link_epoch(link);
    HUB_BEGIN_CRITICAL(host);
    self->next = host->doorbells;
    self->previous = &host->doorbells;
    if (self->next != NULL)
        self->next->previous = &self->next;
    host->doorbells = self;
    HUB_END_CRITICAL();
    return (PyObject *)self;
}

void bnd_doorbell_forget_link(DoorbellObject *self)
{
    hub_link *link;
    if (self->owner == NULL)
        return;
    HUB_BEGIN_CRITICAL(self->owner);
    link = self->link;
    self->link = NULL;
    if (self->previous != NULL) {
        *self->previous = self->next;
        if (self->next != NULL)
            self->next->previous = self->previous;
        self->previous = NULL;
        self->next = NULL;
    }
    HUB_END_CRITICAL();
    if (link != NULL)
        hub_link_unref(link);
}

static int doorbell_traverse(DoorbellObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    Py_VISIT(self->owner);
    return 0;
}

static int doorbell_clear(DoorbellObject *self)
{
    bnd_doorbell_forget_link(self);
    Py_CLEAR(self->owner);
    return 0;
}

/* Our own descriptor, at most once. In a forked child, too: its copy is its own. */
static void close_own(DoorbellObject *self)
{
    int fd;
    HUB_BEGIN_CRITICAL(self);
    fd = self->taken ? -1 : self->fd;
    if (!self->taken)
        self->fd = -1;
    HUB_END_CRITICAL();
    if (fd >= 0)
        close(fd);
}

static void doorbell_dealloc(DoorbellObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    close_own(self);
    bnd_doorbell_forget_link(self);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->module);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* ---- use ----------------------------------------------------------------- */
static int current_fd(const DoorbellObject *self)
{
    if (self->link != NULL)
        return hub_link_fd(self->link);
    return self->taken ? -1 : self->fd;
}

/* The descriptor, or -1 with an exception. */
static int usable_fd(DoorbellObject *self, const char *tried)
{
    int fd = current_fd(self);
    if (fd < 0)
        bnd_raise(self->state, HUB_ECLOSED, NULL, "%s() on a doorbell%s", tried,
                  self->taken ? " that a transport has taken" : "");
    return fd;
}

/* Bytes and wake-ups are the transport's as soon as there is one. */
static int readable_fd(DoorbellObject *self, const char *tried)
{
    if (self->taken) {
        bnd_raise(self->state, HUB_EBUSY, NULL, "%s() on a doorbell that a transport reads", tried);
        return -1;
    }
    return usable_fd(self, tried);
}

static PyObject *doorbell_ring(DoorbellObject *self, PyObject *Py_UNUSED(unused))
{
    int fd = usable_fd(self, "ring");
    if (fd < 0)
        return NULL;
    int rc = hub_doorbell_ring(fd);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "ringing doorbell %d", fd);
    Py_RETURN_NONE;
}

#define LOOK_NS 200000000 /* so often a wait looks whether it was closed, which tells nobody */

/* At a descriptor of the wait's own: the doorbell's may be closed meanwhile, and its number be
 * somebody else's. 1 rung, 0 time up, -1 with an exception. */
static int wait_at(DoorbellObject *self, int own, int64_t deadline)
{
    for (;;) {
        int64_t until = deadline;
        if (deadline != HUB_NOW) {
            int64_t look = hub_clock_ns() + LOOK_NS;
            until = look < deadline ? look : deadline;
        }
        int rc;
        Py_BEGIN_ALLOW_THREADS
        rc = hub_doorbell_wait(own, until);
        Py_END_ALLOW_THREADS
        if (rc < 0 && rc != HUB_EINTR) {
            bnd_raise(self->state, rc, NULL, "waiting at a doorbell");
            return -1;
        }
        if (rc < 0 && PyErr_CheckSignals() < 0)
            return -1;
        if (rc > 0 || (rc == 0 && until == deadline))
            return rc;
        if (readable_fd(self, "wait") < 0)
            return -1;
    }
}

static PyObject *doorbell_wait(DoorbellObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    static const hub_args_spec spec = {"wait", 1, 1, 0, {HUB_NAME_TIMEOUT}};
    PyObject *value;
    int64_t timeout_ns;
    if (bnd_args_unpack(self->state, &spec, args, nargs, kwnames, &value) < 0 ||
        bnd_arg_timeout(value, &timeout_ns) < 0)
        return NULL;
    int fd = readable_fd(self, "wait");
    if (fd < 0)
        return NULL;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    int64_t deadline = timeout_ns == 0 ? HUB_NOW : bnd_arg_deadline_of(timeout_ns);
    int rc = wait_at(self, own, deadline);
    close(own);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* Until the peer is active its pidfd may lie in the socket: a plain read would
 * drop it, and the peer could never attach. */
static int may_drain(DoorbellObject *self)
{
    if (self->link == NULL)
        return 1;
    hub_stat *stat = PyMem_RawMalloc(sizeof *stat);
    if (stat == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int result = 0;
    if (hub_session_stat(hub_link_session(self->link), stat) >= 0)
        for (uint32_t i = 0; i < stat->peer_count; i++)
            if (stat->peers[i].peer_id == self->peer_id && stat->peers[i].epoch == self->epoch)
                result = stat->peers[i].state == HUB_PEER_ACTIVE;
    PyMem_RawFree(stat);
    return result;
}

static PyObject *doorbell_drain(DoorbellObject *self, PyObject *Py_UNUSED(unused))
{
    int fd = readable_fd(self, "drain");
    if (fd < 0)
        return NULL;
    int may = may_drain(self);
    if (may <= 0)
        return may < 0 ? NULL : PyLong_FromLong(0);
    int rc = hub_doorbell_drain(fd);
    if (rc < 0)
        return bnd_raise(self->state, rc, NULL, "draining doorbell %d", fd);
    return PyLong_FromLong(rc);
}

static PyObject *doorbell_fileno(DoorbellObject *self, PyObject *Py_UNUSED(unused))
{
    int fd = usable_fd(self, "fileno");
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

static PyObject *doorbell_close(DoorbellObject *self, PyObject *Py_UNUSED(unused))
{
    close_own(self);
    Py_RETURN_NONE;
}

static PyObject *doorbell_enter(DoorbellObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_NewRef(self);
}

static PyObject *doorbell_exit(DoorbellObject *self, PyObject *Py_UNUSED(args))
{
    return doorbell_close(self, NULL);
}

static PyObject *doorbell_get_closed(DoorbellObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(current_fd(self) < 0);
}

static PyObject *doorbell_get_peer_closed(DoorbellObject *self, void *Py_UNUSED(unused))
{
    int fd = current_fd(self);
    return PyBool_FromLong(fd < 0 || hub_doorbell_peer_closed(fd) > 0);
}

static PyObject *doorbell_get_host(DoorbellObject *self, void *Py_UNUSED(unused))
{
    return Py_NewRef(self->owner != NULL ? (PyObject *)self->owner : Py_None);
}

static PyObject *doorbell_get_peer_id(DoorbellObject *self, void *Py_UNUSED(unused))
{
    if (self->owner == NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(self->peer_id);
}

static PyObject *doorbell_get_epoch(DoorbellObject *self, void *Py_UNUSED(unused))
{
    if (self->owner == NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(self->epoch);
}

static PyObject *doorbell_from_raw_fd(PyObject *class, PyObject *fd)
{
    return PyObject_CallOneArg(class, fd);
}

static PyObject *doorbell_repr(DoorbellObject *self)
{
    if (self->owner != NULL)
        return PyUnicode_FromFormat("<Doorbell of peer %u, epoch %u>", self->peer_id, self->epoch);
    if (self->taken)
        return PyUnicode_FromString("<Doorbell taken by a transport>");
    if (self->fd < 0)
        return PyUnicode_FromString("<Doorbell closed>");
    return PyUnicode_FromFormat("<Doorbell fd=%d>", self->fd);
}

/* ---- type ---------------------------------------------------------------- */
static PyMethodDef doorbell_methods[] = {
    {"from_raw_fd", (PyCFunction)doorbell_from_raw_fd, METH_O | METH_CLASS,
     PyDoc_STR("from_raw_fd($type, fd, /)\n--\n\nThe same as Doorbell(fd).")},
    {"ring", (PyCFunction)doorbell_ring, METH_NOARGS,
     PyDoc_STR("ring($self, /)\n--\n\nWake the other side. Never waits.")},
    {"wait", (PyCFunction)(void (*)(void))doorbell_wait, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("wait($self, timeout=None)\n--\n\n"
               "Wait until rung (True) or the time is up (False). Seconds; None = for ever.")},
    {"drain", (PyCFunction)doorbell_drain, METH_NOARGS,
     PyDoc_STR("drain($self, /)\n--\n\nTake what was rung -> number of rings. Never waits.")},
    {"fileno", (PyCFunction)doorbell_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self, /)\n--\n\nThe descriptor.")},
    {"close", (PyCFunction)doorbell_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nClose the descriptor, unless a transport or the host owns "
               "it. Idempotent.")},
    {"__enter__", (PyCFunction)doorbell_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)doorbell_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef doorbell_getset[] = {
    {"closed", (getter)doorbell_get_closed, NULL,
     PyDoc_STR("Is there no descriptor (any more) behind it?"), NULL},
    {"peer_closed", (getter)doorbell_get_peer_closed, NULL,
     PyDoc_STR("Has the other side hung up?"), NULL},
    {"host", (getter)doorbell_get_host, NULL, PyDoc_STR("The Host whose end it is, or None."),
     NULL},
    {"peer_id", (getter)doorbell_get_peer_id, NULL,
     PyDoc_STR("Whom a host's end leads to, or None."), NULL},
    {"epoch", (getter)doorbell_get_epoch, NULL,
     PyDoc_STR("Which life of that id, or None."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot doorbell_slots[] = {
    {Py_tp_doc, (void *)doorbell_doc},
    {Py_tp_new, doorbell_new},
    {Py_tp_dealloc, doorbell_dealloc},
    {Py_tp_traverse, doorbell_traverse},
    {Py_tp_clear, doorbell_clear},
    {Py_tp_repr, doorbell_repr},
    {Py_tp_methods, doorbell_methods},
    {Py_tp_getset, doorbell_getset},
    {0, NULL},
};

PyType_Spec bnd_doorbell_spec = {
    .name = "shmhub._core.Doorbell",
    .basicsize = sizeof(DoorbellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = doorbell_slots,
};
