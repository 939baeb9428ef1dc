-- qr_refresh.define_evolution_server(): one Evolution server and the calls to it, in Python.
-- Each server has threads of its own, so one that hangs costs only its own instances.
create or replace function qr_refresh.define_evolution_server()
returns void
language plpython3u volatile parallel unsafe security invoker
set search_path = pg_catalog, pg_temp
as $python$
    import contextlib
    import queue
    import signal
    import socket
    import threading
    import time
    from pathlib import Path
    from typing import Any
    from urllib.parse import urlsplit

    class EvolutionServer:
        """Resolves the server's name, then calls. Its threads never touch plpy.

        done gets for each call: position, outcome, QR code, error, elapsed, reconnected.
        """

        def __init__(
            self, base_url: str, request_timeout: float, run_ends: float, done: queue.Queue[Any]
        ) -> None:
            self.base_url, self.done = base_url, done
            self.request_timeout, self.run_ends = request_timeout, run_ends
            self.started_at = time.monotonic()
            self.trust: Any = None
            # Position, then what ask() is given: name, token, check_state, connect_on_close.
            self.calls: list[tuple[int, str, str, bool, bool]] = []
            self.addresses: list[Any] = []
            self.lock = threading.Lock()
            self.is_resolving = True
            self.resolved_in = 0.0  # seconds
            self.stopping = threading.Event()
            self.threads: list[threading.Thread] = []
            self.clients: list[Any] = []

        def start(self, most_workers: int, ca_file: str | None) -> None:
            """Starts the first thread, which starts the others. For the main thread."""
            self.todo = iter(self.calls)
            # A signal handled in a thread of ours would run Postgres's handlers beside Postgres.
            # Threads take over the mask of the one that starts them.
            former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                if self.base_url.startswith("https:"):
                    self.trust = GD["qr_refresh.tls_trust"](ca_file)
                self.start_thread(self.resolve_and_work, most_workers)
                return
            except OSError:  # of which an SSLError is one
                error = "CA file cannot be read"
            except RuntimeError:
                error = "no thread could be started"
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
            self.is_resolving = False
            self.end_all("failed", error)

        def start_thread(self, target: Any, *arguments: Any) -> None:
            thread = threading.Thread(target=target, args=arguments, daemon=True)
            thread.start()
            self.threads.append(thread)

        def resolve_and_work(self, most_workers: int) -> None:
            with contextlib.suppress(OSError, ValueError, OverflowError):
                url = urlsplit(self.base_url)
                port = url.port or (443 if self.trust else 80)
                self.addresses += socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
            self.resolved_in = time.monotonic() - self.started_at
            with self.lock:
                self.is_resolving = False
                if self.stopping.is_set():
                    return
            if not self.addresses:
                self.end_all("failed", "host not found")
                return
            # Where the system allows no more threads, those that there are do it all.
            with contextlib.suppress(RuntimeError):
                for _ in range(1, most_workers):
                    if self.stopping.is_set():
                        break
                    self.start_thread(self.work)
            self.work()

        def work(self) -> None:
            """One worker: a call after the other. Resolving counts for its first one."""
            client = GD["qr_refresh.HttpClient"](self.base_url, self.addresses, self.trust)
            # In this order: after stop() this client is in the list, or no call is made.
            self.clients.append(client)
            ask, path = GD["qr_refresh.ask"], urlsplit(self.base_url).path
            # How late this thread has started does not: hundreds of busy ones hold up each other.
            begun_at = time.monotonic() - self.resolved_in
            # With less time left than this a call is not begun: it comes first in the next run.
            shortest = min(0.5, self.request_timeout / 4)
            for position, *call in self.todo:
                if self.stopping.is_set() or time.monotonic() + shortest >= self.run_ends:
                    break
                deadline = min(begun_at + self.request_timeout, self.run_ends)
                outcome, picture, error, reconnected = ask(client, path, deadline, *call)
                now = time.monotonic()
                self.done.put((position, outcome, picture, error, now - begun_at, reconnected))
                begun_at = now
            client.close()

        def end_all(self, outcome: str, error: str | None) -> None:
            elapsed = time.monotonic() - self.started_at
            for position, *_ in self.calls:
                self.done.put((position, outcome, None, error, elapsed, False))

        def is_at_work(self) -> bool:
            return not self.stopping.is_set() and any(thread.is_alive() for thread in self.threads)

        def expire(self, now: float) -> None:
            """Ends what has passed its deadline. For the main thread."""
            with self.lock:
                ends = min(self.started_at + self.request_timeout, self.run_ends)
                if self.is_resolving and not self.stopping.is_set() and now >= ends:
                    self.stopping.set()
                    self.end_all("timeout", None)
            for client in self.clients:
                client.expire(now)

        def stop(self) -> None:
            with self.lock:
                self.stopping.set()
            for client in self.clients:
                client.stop()

        def join(self, tick: float) -> None:
            """Waits until all threads have ended, which have been stopped.

            Nothing can interrupt getaddrinfo(). What waits there is left behind, one thread for a
            server, until the resolver's own time-outs end it (resolv.conf: 5 s, two attempts, each
            name server).
            """
            if self.is_resolving:
                return
            for thread in self.threads:  # the first one may still be adding to them
                thread.join(tick)
                while thread.is_alive():
                    # Again and again: shutting down a socket just before it connects has no effect.
                    self.stop()
                    thread.join(tick)
            # Python has done with a thread a moment before the kernel has. Meanwhile OpenSSL clears
            # up after it, which crashes in a session that ends in that moment.
            gives_up_at = time.monotonic() + 1
            for thread in self.threads:
                while Path(f"/proc/self/task/{thread.native_id}").exists():
                    if time.monotonic() > gives_up_at:
                        return
                    time.sleep(0.001)

    GD["qr_refresh.EvolutionServer"] = EvolutionServer
$python$;

comment on function qr_refresh.define_evolution_server() is
'Defines the Python class EvolutionServer for qr_refresh.fetch_qr_codes() of this session, in PL/Python''s dictionary GD: the threads that '
'call one Evolution server. It uses what qr_refresh.define_evolution_call(), define_http_client() and define_tls_trust() define.
Private.';
