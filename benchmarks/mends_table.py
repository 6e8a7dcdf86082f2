"""The faults of the server that were mended: the test made for each, and how its mend is taken out; see mends.py."""

from __future__ import annotations

from mends_found import FOUND, Edit, Mend, edit

_ANY_LOOK = edit("slot.py", "except Exception as error:  # an operating", "except ZeroDivisionError as error:  # an")
_OTHER_LOOK = edit("slot.py", "except Exception as error:  # an operating", "except EOFError as error:  # an")
_ANY_JOB = edit("jobs.py", "except Exception as error:  # noqa: BLE001  # whatever", "except EOFError as error:  # ")

MENDS = (
    Mend(
        "following survives any error",
        "only errors of ours are caught",
        "serving/test_faults.py::test_following_survives_any_error_and_goes_on_when_it_goes",
        (_ANY_LOOK, _ANY_JOB),
    ),
    Mend(
        "a bundle name of 300 letters",
        "only errors of ours are caught",
        "serving/test_faults.py::test_a_bundle_name_of_300_letters_is_a_reason_and_not_the_end",
        (_ANY_JOB, _OTHER_LOOK, Edit("storage/local.py", "except OSError as error", "except EOFError as error")),
    ),
    Mend(
        "an error at start is the reason of the 503",
        "only errors of ours are caught by the look",
        "serving/test_faults.py::test_at_start_an_error_that_is_not_ours_is_the_reason_of_the_503",
        (_OTHER_LOOK, _ANY_JOB),
    ),
    Mend(
        "background jobs are supervised: a metric",
        "a failure is not counted",
        "serving/test_ready.py::test_a_job_of_the_server_that_fails_by_a_bug_is_said_in_three_places_and_goes_on",
        (edit("jobs.py", "self._metrics.job_failures[name] += 1", "pass"),),
    ),
    Mend(
        "background jobs are supervised: /ready",
        "a failure is not remembered",
        "serving/test_ready.py::test_a_job_of_the_server_that_fails_by_a_bug_is_said_in_three_places_and_goes_on",
        (edit("jobs.py", "self.failing[name] = reason", "pass"),),
    ),
    Mend(
        "a hung mount is said",
        "nobody asks how long the look has taken",
        "serving/test_faults.py::test_a_look_that_hangs_is_said_and_answers_and_the_exit_do_not_wait",
        (edit("service.py", "if seconds > self.settings.look_timeout_s:", "if False:"),),
    ),
    Mend(
        "a hung mount does not hold who asks for a look",
        "the look is waited for without end",
        "serving/test_faults.py::test_a_look_that_hangs_is_said_and_answers_and_the_exit_do_not_wait",
        (edit("service.py", "timeout=self.settings.look_timeout_s)", "timeout=None)"),),
    ),
    Mend(
        "a hung mount does not hold the exit",
        "the look's thread is joined",
        "serving/test_faults.py::test_a_look_that_hangs_is_said_and_answers_and_the_exit_do_not_wait",
        (edit("jobs.py", 'name="himari-look", daemon=True', 'name="himari-look", daemon=False'),),
    ),
    Mend(
        "a FIFO hangs nothing",
        "a named pipe is opened as a file",
        "serving/test_faults.py::test_a_named_pipe_in_place_of_the_alias_or_the_manifest_hangs_nothing",
        (Edit("storage/local.py", " | os.O_NONBLOCK)", ")"),),
    ),
    Mend(
        "a log pipe that nobody reads",
        "a line is written on the event loop",
        "serving/test_faults.py::test_a_log_pipe_that_nobody_reads_stops_nothing",
        (edit("log_lines.py", 'self._lines.put_nowait(line.encode(errors="replace"))', "os.write(2, line.encode())"),),
    ),
    Mend(
        "a full disk costs lines, counted",
        "the writer's error is not caught",
        "serving/test_faults.py::test_a_full_disk_costs_lines_which_are_counted",
        (edit("log_lines.py", "except OSError:", "except EOFError:"),),
    ),
    Mend(
        "training: a full stderr ends no run",
        "the console writes to stderr itself",
        "training/test_process.py::test_a_stderr_that_cannot_be_written_does_not_end_a_run",
        (Edit("cli/console.py", "cast(TextIO, Unfailing(sys.stderr))", "sys.stderr"),),
    ),
    Mend(
        "headers beyond 64 KiB are 431",
        "no head is measured",
        "serving/test_wire_limits.py::test_a_head_beyond_64_kib_is_431_and_reaches_nobody",
        (
            edit("http/upgrade.py", "if size > MOST_HEAD:", "if False:"),
            edit("http/upgrade.py", "if self._unread > MOST_HEAD and self._in_head():", "if False:"),
        ),
    ),
    Mend(
        "a timer for heads and idle connections",
        "the sweep closes nothing",
        "serving/test_wire_limits.py::test_connections_that_bring_no_head_are_closed_and_who_asks_stays",
        (edit("http/connections.py", "connection.give_up()", "pass"),),
    ),
    Mend(
        "a bound of awaited bodies per address",
        "no bound",
        "serving/test_wire_limits.py::test_bodies_that_are_awaited_are_bounded_per_address_and_who_sends_his_is_served",
        (edit("http/middleware.py", "elif len(own) >= self._most_each:", "elif False:"),),
    ),
    Mend(
        "one address does not take every place",
        "no address is let in beyond the limit",
        "serving/test_wire_limits.py::test_one_address_that_takes_every_place_is_refused_and_another_is_not",
        (edit("http/middleware.py", " and not self._few(peer)", ""),),
    ),
    Mend(
        "certificate fetches hold no places",
        "who waits for certificates counts",
        "serving/test_wire_limits.py::test_certificates_that_do_not_come_hold_no_places",
        (edit("http/middleware.py", "self.begun - waiting >=", "self.begun >="),),
    ),
    Mend(
        "unparsable tokens are 401",
        "only google-auth's own errors are caught",
        "serving/test_wire_limits.py::test_a_token_that_cannot_be_parsed_is_401_and_never_500",
        (
            edit(
                "http/guard.py", "except Exception as error:  # a token is", "except ValueError as error:  # a token is"
            ),
        ),
    ),
    Mend(
        "sessions belong to (client, session)",
        "the client is no part of the name",
        "serving/test_bounds.py::test_one_client_cannot_take_the_sessions_of_all_and_the_same_name_is_another_session",
        (
            edit("service.py", "client, (client, session), request", 'client, ("", session), request'),
            edit("service.py", "name = (client, session, slot.symbols", 'name = ("", session, slot.symbols'),
        ),
    ),
    Mend(
        "sessions are bounded per client",
        "no bound per client",
        "serving/test_bounds.py::test_one_client_cannot_take_the_sessions_of_all_and_the_same_name_is_another_session",
        (edit("sessions.py", "if (own := self._of[client]) >= self._most_each:", "if (own := 0) > 0:"),),
    ),
    Mend(
        "times beyond now + one bar are refused",
        "no look at the clock",
        "serving/test_bounds.py::test_a_time_beyond_now_and_one_bar_is_refused_and_the_session_goes_on",
        (edit("service.py", "if timestamp > now_ms + slot.interval_ms:", "if False:"),),
    ),
    Mend(
        "a session costs < 16 KB",
        "the whole history is kept",
        "serving/test_bounds.py::test_a_session_costs_less_than_16_kb_whatever_its_history",
        (Edit("features/window.py", "keep = np.arange(len(times)) >= len(times) - wanted", "keep = times > 0"),),
    ),
    Mend(
        "a history of 1,000 bars runs in numpy",
        "each close is judged by itself",
        "serving/test_bounds.py::test_a_history_of_a_thousand_bars_runs_in_numpy_and_not_in_python",
        (Edit("policy/arrival.py", "if not _all_can_follow(closes):", "if True:"),),
    ),
    Mend(
        "an alias of another contract is 409",
        "contracts are not compared",
        "serving/test_contract.py::test_an_alias_of_another_contract_is_refused_with_409_unless_told",
        (edit("slot.py", "if self.contract is not None and not self._others:", "if False:"),),
    ),
    Mend(
        "a challenger of another contract is 409",
        "contracts are not compared",
        "serving/test_contract.py::test_a_challenger_of_another_contract_is_refused_with_409",
        (edit("slot.py", "if self.contract is not None and not self._others:", "if False:"),),
    ),
    Mend(
        "/v1/batch is one pass",
        "instances are decided one by one",
        "serving/test_batch.py::test_a_batch_is_one_pass_of_the_network_shadowed_and_counted",
        (edit("service.py", "if len(given) > 1:", "if False:"),),
    ),
    Mend(
        "/v1/batch is shadowed",
        "nothing is offered to the challenger",
        "serving/test_batch.py::test_a_batch_is_one_pass_of_the_network_shadowed_and_counted",
        (
            edit(
                "service.py",
                "self._shadow.offer(request, answer)\n            predictions",
                "pass\n            predictions",
            ),
        ),
    ),
    Mend(
        "/v1/batch is counted",
        "no decision is counted",
        "serving/test_batch.py::test_a_batch_is_one_pass_of_the_network_shadowed_and_counted",
        (edit("columns.py", "metrics.decided_many(", "(lambda *_: None)("),),
    ),
    Mend(
        "/v1/decide takes the short way",
        "FastAPI answers it",
        "serving/test_cost.py::test_a_decision_on_raw_numbers_costs_few_python_calls",
        (edit("http/fast_path.py", '"/v1/decide": self._decide', '"/v1/never": self._decide'),),
    ),
    Mend(
        "Upgrade: h2c is ignored",
        "uvicorn's own answer to it",
        "serving/test_says.py::test_an_upgrade_is_ignored_and_the_body_kept",
        (edit("http/upgrade.py", 'if self.parser.get_method() != b"CONNECT":', "if False:"),),
    ),
    Mend(
        "HEAD on /health and /ready",
        "HEAD reaches the routes",
        "serving/test_says.py::test_a_probe_may_ask_with_head",
        (edit("http/middleware.py", 'if scope["method"] != "HEAD":', "if True:"),),
    ),
    Mend(
        "a request id in and out",
        "nobody looks for one",
        "serving/test_says.py::test_a_request_id_that_was_sent_comes_back_by_every_way_and_none_else",
        (edit("http/app.py", "if name == REQUEST_ID:", "if False:"),),
    ),
    Mend(
        "an opt-in access log as JSON",
        "no line is written",
        "serving/test_says.py::test_every_request_is_a_line_of_json_where_somebody_asked_for_it",
        (edit("http/access.py", "if self._journal is not None:", "if False:"),),
    ),
    Mend(
        "uvicorn's lines are JSON",
        "uvicorn keeps its own handler",
        "serving/test_says.py::test_what_uvicorn_says_is_json_too",
        (edit("http/run.py", "logger.handlers, logger.propagate = [lines], False", "pass"),),
    ),
    Mend(
        "a key shown twice is none",
        "the last one counts",
        "serving/test_wire_limits.py::test_a_key_shown_twice_is_none_and_blanks_around_it_are_no_part_of_it",
        (edit("http/guard.py", "if len(keys) > 1 or len(bearers) > 1:", "if False:"),),
    ),
    Mend(
        "blank-padded keys in the settings",
        "blanks are not looked for",
        "serving/test_says.py::test_a_key_that_is_blank_padded_or_there_twice_is_refused_and_not_repeated",
        (edit("settings.py", "if not key or key != key.strip() or", "if not key or"),),
    ),
    Mend(
        "duplicate keys in the settings",
        "duplicates are not looked for",
        "serving/test_says.py::test_a_key_that_is_blank_padded_or_there_twice_is_refused_and_not_repeated",
        (edit("settings.py", "if len(set(self.api_keys)) != len(self.api_keys):", "if False:"),),
    ),
    Mend(
        "IPv6 brackets",
        "a host keeps its brackets",
        "serving/test_says.py::test_an_ipv6_address_may_stand_in_brackets_and_does_in_a_url",
        (edit("settings.py", 'return host[1:-1] if host.startswith("[")', 'return host if host.startswith("[")'),),
    ),
    Mend(
        "url-safe base64 is refused",
        "its letters are translated",
        "serving/test_contract.py::test_the_url_safe_alphabet_is_another_text_and_refused",
        (
            edit(
                "memory.py",
                "binascii.a2b_base64(text, strict_mode=True)",
                'binascii.a2b_base64(text.replace("-", "+").replace("_", "/"), strict_mode=True)',
            ),
        ),
    ),
    Mend(
        "an absurd ledger is refused",
        "no bound on caps and leverage",
        "policy/test_absurd.py::test_an_absurd_number_is_refused_by_name",
        (
            Edit(
                "policy/risk.py",
                "LARGEST_CAP, LARGEST_BOUND = 10.0, 100.0",
                "LARGEST_CAP, LARGEST_BOUND = 1e307, 1e307",
            ),
        ),
    ),
    Mend(
        "an absurd normaliser is refused",
        "no bound on means and deviations",
        "policy/test_absurd.py::test_an_absurd_number_is_refused_by_name",
        (Edit("policy/manifest.py", "LARGEST = 1e9\n", "LARGEST = 1e307\n"),),
    ),
    Mend(
        "an interval against the data is refused",
        "the two are not compared",
        "policy/test_absurd.py::test_an_absurd_number_is_refused_by_name",
        (Edit("policy/manifest.py", "if self.ledger.interval_ms != self.training_data.interval_ms:", "if False:"),),
    ),
    Mend(
        "signing or amending keeps memories",
        "a memory belongs to the whole manifest",
        "serving/test_contract.py::test_signing_or_amending_keeps_the_memory_of_clients_and_other_weights_do_not",
        (edit("slot.py", "self.digest = manifest.shaping_sha256", "self.digest = manifest.manifest_sha256"),),
    ),
    Mend(
        "alias paths are relative to the alias",
        "they are relative to where the server stands",
        "serving/test_contract.py::test_a_relative_bundle_is_meant_from_the_aliass_own_folder_wherever_the_server_stands",
        (edit("slot.py", "load_policy(bundle_of(alias, self.place))", "load_policy(alias.bundle)"),),
    ),
    Mend(
        "/docs without outside requests",
        "FastAPI's own page",
        "serving/test_says.py::test_the_documentation_asks_nobody_else_for_anything_and_has_every_route",
        (edit("http/app.py", "docs_url=None,", 'docs_url="/docs",'),),
    ),
    Mend(
        "the server says at start what it serves and where",
        "it says nothing",
        "serving/test_says.py::test_the_container_says_at_start_what_it_serves_and_where",
        (
            edit(
                "service.py",
                'self.journal.event("listening"',
                '(lambda *_, **__: None)("listening"',
            ),
        ),
    ),
    Mend(
        "refused bundles are not read again every two seconds",
        "every look reads",
        "serving/test_faults.py::test_what_is_refused_is_not_read_again_at_every_look_but_at_once_when_asked",
        (edit("slot.py", "and mark == self._refused_mark and monotonic() < self._again_at:", "and False:"),),
    ),
    Mend(
        "SIGTERM while training writes a checkpoint",
        "SIGTERM has its ordinary end",
        "training/test_process.py::test_sigterm_writes_a_checkpoint_from_which_the_run_goes_on",
        (Edit("training/job.py", ", signal.SIGTERM: signal.SIG_DFL}", "}"),),
    ),
    Mend(
        "two trainings in one folder are refused",
        "nobody locks",
        "training/test_process.py::test_two_trainings_in_one_folder_are_refused",
        (Edit("storage/lock.py", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),),
    ),
    Mend(
        "a client that does not read is ended",
        "a close, which waits for it",
        "serving/test_wire_limits.py::test_a_client_that_does_not_read_its_answers_is_ended",
        (edit("http/upgrade.py", "self.transport.abort()  # a close", "self.transport.close()  # a close"),),
    ),
    *FOUND,
)
