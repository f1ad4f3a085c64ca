/* fsck.c - checking and repairing a hub: the findings as a list, the counts as a dict.
 *
 * In the host the GIL is kept: under it, and with no thread inside a call, it is
 * known what this process holds and that nobody else of it is in the pool. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FINDINGS_KEPT 10000 /* the others are counted */

typedef struct findings {
    hub_fsck_finding *items;
    size_t count, room;
} findings;

/* Called without the GIL; what there is no memory for is counted all the same. */
static void keep(void *context, const hub_fsck_finding *finding)
{
    findings *kept = context;
    if (kept->count == kept->room) {
        size_t room = kept->room == 0 ? 64 : kept->room * 2;
        if (room > FINDINGS_KEPT)
            room = FINDINGS_KEPT;
        if (room == kept->room)
            return;
        hub_fsck_finding *larger = PyMem_RawRealloc(kept->items, room * sizeof *larger);
        if (larger == NULL)
            return;
        kept->items = larger;
        kept->room = room;
    }
    kept->items[kept->count++] = *finding;
}

static PyObject *finding_tuple(const hub_fsck_finding *finding)
{
    return Py_BuildValue("(siiissO)", hub_fsck_name(finding->kind), finding->class_index,
                         finding->index, finding->peer_id, finding->found,
                         hub_fsck_meaning(finding->kind), finding->mended ? Py_True : Py_False);
}

static PyObject *report_dict(const findings *kept, const hub_fsck_totals *totals)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < kept->count; i++)
        if (bnd_list_add(list, finding_tuple(&kept->items[i])) < 0)
            Py_CLEAR(list);
    if (list == NULL)
        return NULL;
    return Py_BuildValue(
        "{s:N,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:O}", "findings", list, "slots",
        (unsigned long long)totals->slots, "found", (unsigned long long)totals->findings, "mended",
        (unsigned long long)totals->mended, "left", (unsigned long long)totals->left, "off_list",
        (unsigned long long)totals->off_list, "remembered", (unsigned long long)totals->remembered,
        "misplaced", (unsigned long long)totals->misplaced, "unjudged",
        (unsigned long long)totals->unjudged, "reclaimed", (unsigned long long)totals->reclaimed,
        "bytes", (unsigned long long)totals->bytes, "live", totals->live ? Py_True : Py_False);
}

/* Slots that this process holds, if that can be known. */
static uint32_t held_by(const SessionObject *host)
{
#ifndef Py_GIL_DISABLED
    if (host->users.inside == 1 && host->transport_calls == 0) /* the one is ours */
        return hub_session_held(host->session);
#else
    (void)host;
#endif
    return HUB_FSCK_HELD_UNKNOWN;
}

PyObject *bnd_host_fsck(SessionObject *self, PyObject *repair_arg)
{
    int repair = PyObject_IsTrue(repair_arg);
    if (repair < 0 || bnd_session_object_enter(self, "fsck") < 0)
        return NULL;
    findings kept = {NULL, 0, 0};
    hub_fsck_totals totals;
    int rc = hub_host_fsck(self->session, repair, held_by(self), keep, &kept, &totals);
    bnd_session_object_leave(self);
    PyObject *result = rc < 0 ? bnd_raise(self->state, rc, NULL, "fsck of the hub")
                              : report_dict(&kept, &totals);
    PyMem_RawFree(kept.items);
    return result;
}

static PyObject *finish(hub_state *state, int rc, const hub_fault *fault, findings *kept,
                        const hub_fsck_totals *totals, PyObject *target)
{
    PyObject *result = NULL;
    if (rc < 0)
        result = bnd_raise(state, rc, fault, "fsck of %R", target);
    else if (rc > 0)
        result = Py_NewRef(Py_None);
    else
        result = report_dict(kept, totals);
    PyMem_RawFree(kept->items);
    return result;
}

PyObject *bnd_fsck_method(PyObject *module, PyObject *args)
{
    PyObject *target, *path = NULL;
    int repair;
    if (!PyArg_ParseTuple(args, "Op:fsck", &target, &repair))
        return NULL;
    int fd = -1;
    if (PyLong_Check(target)) {
        fd = PyObject_AsFileDescriptor(target);
        if (fd < 0)
            return NULL;
        if (repair)
            return PyErr_Format(PyExc_ValueError, "fsck: a hub is repaired by its path or by its "
                                "host, not by a descriptor");
    } else if (!PyUnicode_FSConverter(target, &path)) {
        return NULL;
    }
    findings kept = {NULL, 0, 0};
    hub_fsck_totals totals;
    hub_fault fault = {0};
    int rc;
    Py_BEGIN_ALLOW_THREADS
    if (repair) {
        rc = hub_fsck_repair(PyBytes_AS_STRING(path), keep, &kept, &totals, &fault);
    } else if (path != NULL) {
        fd = open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        rc = fd < 0 ? -errno : hub_fsck(fd, keep, &kept, &totals, &fault);
        if (fd >= 0)
            close(fd);
    } else {
        rc = hub_fsck(fd, keep, &kept, &totals, &fault);
    }
    Py_END_ALLOW_THREADS
    Py_XDECREF(path);
    return finish(PyModule_GetState(module), rc, &fault, &kept, &totals, target);
}

PyObject *bnd_fsck_dump_method(PyObject *module, PyObject *args)
{
    PyObject *target, *path = NULL;
    unsigned int which;
    if (!PyArg_ParseTuple(args, "OI:fsck_dump", &target, &which) ||
        !PyUnicode_FSConverter(target, &path))
        return NULL;
    findings kept = {NULL, 0, 0};
    hub_fsck_totals totals;
    hub_fault fault = {0};
    int rc;
    Py_BEGIN_ALLOW_THREADS
    int fd = open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    rc = fd < 0 ? -errno : hub_fsck_dump(fd, which, keep, &kept, &totals, &fault);
    if (fd >= 0)
        close(fd);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return finish(PyModule_GetState(module), rc, &fault, &kept, &totals, target);
}
