/* inspect.c - looking at a hub from outside: live, or what is left of a dead one. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- pieces -------------------------------------------------------------- */
static PyObject *config_dict(const hub_config *config)
{
    PyObject *classes = bnd_statistics_classes(config);
    if (classes == NULL)
        return NULL;
    return Py_BuildValue("{s:N,s:I,s:I,s:K,s:L}", "size_classes", classes, "max_peers",
                         config->max_peers, "ring_capacity", config->ring_capacity, "max_bytes",
                         (unsigned long long)config->max_bytes, "spin_ns",
                         (long long)config->spin_ns);
}

/* Two rings a peer, to the host and from it: those that were ever set up. */
static PyObject *ring_list(const hub_inspection *found)
{
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < 2 * HUB_PEERS_MAX; i++) {
        if (found->rings[i].capacity == 0)
            continue;
        PyObject *ring = Py_BuildValue(
            "{s:I,s:s,s:K,s:K,s:I,s:O,s:O,s:I}", "peer_id", i / 2, "direction",
            i % 2 == 0 ? "to_host" : "from_host", "head", (unsigned long long)found->rings[i].head,
            "tail", (unsigned long long)found->rings[i].tail, "capacity", found->rings[i].capacity,
            "closed", found->rings[i].closed ? Py_True : Py_False, "sleeping",
            found->rings[i].sleeping ? Py_True : Py_False, "want", found->rings[i].want);
        if (bnd_list_add(list, ring) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *offset_list(const uint64_t *offsets, uint32_t count)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < count && i < HUB_CLASSES_MAX; i++)
        if (bnd_list_add(list, PyLong_FromUnsignedLongLong(offsets[i])) < 0)
            Py_CLEAR(list);
    return list;
}

static PyObject *layout_dict(const hub_inspection *found)
{
    PyObject *dict = Py_BuildValue(
        "{s:K,s:K,s:K,s:K,s:K,s:K}", "data_offset", (unsigned long long)found->data_offset,
        "classes_offset", (unsigned long long)found->classes_offset, "peers_offset",
        (unsigned long long)found->peers_offset, "signals_offset",
        (unsigned long long)found->signals_offset, "blocks_offset",
        (unsigned long long)found->blocks_offset, "block_stride",
        (unsigned long long)found->block_stride);
    uint32_t count = found->config.class_count;
    if (dict != NULL &&
        (bnd_dict_add(dict, "meta_offsets", offset_list(found->meta_offset, count)) < 0 ||
         bnd_dict_add(dict, "class_data_offsets",
                      offset_list(found->class_data_offset, count)) < 0))
        Py_CLEAR(dict);
    return dict;
}

static PyObject *inspection_dict(const hub_inspection *found)
{
    PyObject *dict = bnd_statistics_dict(&found->stat);
    if (dict == NULL)
        return NULL;
    if (bnd_dict_add(dict, "config", config_dict(&found->config)) < 0 ||
        bnd_dict_add(dict, "total_size", PyLong_FromUnsignedLongLong(found->total_size)) < 0 ||
        bnd_dict_add(dict, "host_pid", PyLong_FromLong(found->host_pid)) < 0 ||
        bnd_dict_add(dict, "live", PyBool_FromLong(found->live)) < 0 ||
        bnd_dict_add(dict, "rings", ring_list(found)) < 0 ||
        bnd_dict_add(dict, "waiters", PyLong_FromUnsignedLongLong(found->waiters)) < 0 ||
        bnd_dict_add(dict, "ready", PyLong_FromUnsignedLongLong(found->ready)) < 0 ||
        bnd_dict_add(dict, "layout", layout_dict(found)) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* ---- methods ------------------------------------------------------------- */
/* 0, -errno of the open, or what the core found. */
static int inspect_path(const char *path, hub_inspection *found, hub_fault *fault)
{
    int rc;
    Py_BEGIN_ALLOW_THREADS
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    rc = fd < 0 ? -errno : hub_inspect(fd, found, fault);
    if (fd >= 0)
        close(fd);
    Py_END_ALLOW_THREADS
    return rc;
}

static int inspect_fd(int fd, hub_inspection *found, hub_fault *fault)
{
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_inspect(fd, found, fault);
    Py_END_ALLOW_THREADS
    return rc;
}

PyObject *bnd_inspect_method(PyObject *module, PyObject *path_or_fd)
{
    hub_state *state = PyModule_GetState(module);
    PyObject *path = NULL;
    int fd = -1;
    if (PyLong_Check(path_or_fd)) {
        fd = PyObject_AsFileDescriptor(path_or_fd);
        if (fd < 0)
            return NULL;
    } else if (!PyUnicode_FSConverter(path_or_fd, &path)) {
        return NULL;
    }
    hub_inspection *found = PyMem_RawCalloc(1, sizeof *found);
    hub_fault fault = {0};
    PyObject *result = NULL;
    if (found == NULL) {
        PyErr_NoMemory();
    } else {
        int rc = path != NULL ? inspect_path(PyBytes_AS_STRING(path), found, &fault)
                              : inspect_fd(fd, found, &fault);
        result = rc < 0 ? bnd_raise(state, rc, &fault, "inspecting %R", path_or_fd)
                        : inspection_dict(found);
    }
    PyMem_RawFree(found);
    Py_XDECREF(path);
    return result;
}

PyObject *bnd_unlink_if_stale_method(PyObject *module, PyObject *path_arg)
{
    hub_state *state = PyModule_GetState(module);
    PyObject *path;
    if (!PyUnicode_FSConverter(path_arg, &path))
        return NULL;
    hub_fault fault = {0};
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = hub_unlink_if_stale(PyBytes_AS_STRING(path), &fault);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (rc < 0)
        return bnd_raise(state, rc, &fault, "removing %R if it is stale", path_arg);
    return PyBool_FromLong(rc);
}
