"""leadctl as a process, judged at the emulated vendors.

Everything runs with a SQLite file. What touches how a database behaves runs on PostgreSQL and MariaDB as well:

=======================================  =================================================================
file                                     on all three (``everywhere``), or on the servers (``on_servers``)
=======================================  =================================================================
test_kill                                1,000 leads over all channels, killed twice
test_two_processes, test_operators       limits and leads that processes share; leases, frozen and killed holders
test_tokens                              one refresh for four processes, killed at any point, revoked, frozen
test_ledger_faults                       a server that is away for a while, or stays away
test_neighbour                           an application at work on the same tables; an account that may only read
test_commands, test_exit_codes           runs, history, settle, adopt, force; codes 0, 1, 4, 6, and which wins
test_routing, test_purge, test_lessons   NULL and deleted rows, proof, purge, going on after a kill
test_gone_leads                          a lead that is back when its run goes on
tests/crash/test_crash_points_servers    every crash point, over one channel of each kind
tests/store                              all that is not about SQLite's files (fixture ``place``)
=======================================  =================================================================

The other files are about channels, texts and terminals, for which the database makes no difference. ``make everywhere``
runs them on both servers all the same (``LEADCTL_TESTS_ON=mariadb``: on one), but for what only a file does
(``on_sqlite``).
"""
