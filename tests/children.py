"""Processes that start where Python has imported everything: forks of one that has.

    run(["train/mnist.py", "--smoke"])     as subprocess.run([sys.executable, ...])
    Child(["train/mnist.py", "--smoke"])   as subprocess.Popen([sys.executable, ...])
    call(mnist.main, ["--smoke"])          as run(...), but in this process

To import TensorFlow takes five seconds of a processor, and a hundred tests need a
process of their own: to be killed, or to show what a command prints and how it ends.
Here one process imports once for all of them, runs no operation, and forks for each.
The child has its own arguments, folder, environment and files, and is killed as any
other. Tests of an import itself are no case for it, nor is an environment that
TensorFlow reads when it is imported.
"""

import atexit
import contextlib
import functools
import importlib
import io
import json
import os
import pathlib
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve()


class Child:
    """A forked process that runs a script, with the methods of `subprocess.Popen`.

    Args:
        command: [path of a script, *arguments], or ["-c", code, *arguments].
        cwd: folder to run in.
        env: its environment, else that of this process.
        stdout: a file or `subprocess.DEVNULL`, else that of this process.
        stderr: the same.
    """

    def __init__(self, command, cwd=None, env=None, stdout=None, stderr=None):
        request = {
            "argv": list(map(str, command)),
            "cwd": str(cwd or pathlib.Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        self.returncode = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_parent())
        with contextlib.ExitStack() as stack:
            files = [_file(stack, stdout, 1), _file(stack, stderr, 2)]
            socket.send_fds(self._connection, [b"f"], files)
        self._lines = self._connection.makefile("rw")
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        self.pid = int(self._lines.readline())

    def poll(self):
        """The exit code, or None while it runs."""
        if self.returncode is None:
            self._connection.setblocking(False)
            try:
                self._ended(self._connection.recv(32))
            except BlockingIOError:
                self._connection.setblocking(True)
        return self.returncode

    def wait(self, timeout=None):
        """The exit code, negative for a signal, once it has ended."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self._ended(self._connection.recv(32))
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"{self.pid}", timeout) from None
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def _ended(self, answer):
        if not answer:
            raise RuntimeError("The process that forks has ended.")
        self.returncode = os.waitstatus_to_exitcode(int(answer))
        self._lines.close()
        self._connection.close()


def run(command, cwd=None, env=None, timeout=600):
    """Exit code, output and errors of a script, as `subprocess.run` gives them."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as shown:
        child = Child(command, cwd, env, said, shown)
        try:
            code = child.wait(timeout)
        finally:
            child.kill()
        texts = []
        for file in (said, shown):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(command, code, *texts)


def call(main, argv):
    """Exit code, output and errors of a script's main function, in this process."""
    said, shown, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(shown):
        try:
            main(list(map(str, argv)))
        except SystemExit as end:
            code = _exit_code(end)
    return subprocess.CompletedProcess(argv, code, said.getvalue(), shown.getvalue())


def _exit_code(end):
    """That of a process which ends so; a sentence is printed on stderr."""
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _file(stack, file, default):
    if file == subprocess.DEVNULL:
        return stack.enter_context(open(os.devnull, "w")).fileno()
    return default if file is None else file.fileno()


@functools.cache
def _parent():
    """Start the process that forks, and return the address of its socket."""
    folder = tempfile.mkdtemp()
    address = os.path.join(folder, "socket")
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, HERE, address],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,  # closed when this process ends, however it does
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    atexit.register(process.kill)
    return address


# In the process that forks


def _serve(address):
    """Fork a child for every connection, until the one that started this has ended."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(16)
        print("ready", flush=True)
        threading.Thread(target=_end_with_starter, daemon=True).start()
        while True:
            connection, _ = listening.accept()
            _fork(connection, listening)


def _end_with_starter():
    sys.stdin.buffer.read()
    os._exit(0)


def _fork(connection, listening):
    _, files, _, _ = socket.recv_fds(connection, 1, 2)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if not pid:
        connection.close()
        listening.close()
        _become(request, files)
    for file in files:
        os.close(file)
    connection.sendall(f"{pid}\n".encode())
    threading.Thread(target=_tell_end, args=(connection, pid), daemon=True).start()


def _tell_end(connection, pid):
    _, status = os.waitpid(pid, 0)
    with connection, contextlib.suppress(OSError):
        connection.sendall(f"{status}".encode())


def _become(request, files):
    """Run the script as Python runs one from the command line; does not return."""
    code = 1
    try:
        for place, file in zip((1, 2), files, strict=True):
            os.dup2(file, place)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = request["argv"]
        _run(sys.argv)
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(argv):
    if argv[0] == "-c":
        code = argv.pop(1)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        return
    sys.path.insert(0, str(pathlib.Path(argv[0]).resolve().parent))
    runpy.run_path(argv[0], run_name="__main__")


def _import_all():
    """Import what scripts do, and run nothing: threads of a pool are not forked."""
    import keras_tilt

    for module in pkgutil.walk_packages(keras_tilt.__path__, "keras_tilt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    _import_all()
    _serve(sys.argv[1])
