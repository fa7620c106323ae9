"""Several processes behind one address: a supervisor, its workers, and what they share.

The supervisor binds the sockets, owns the shared memory, starts workers, and answers the admin API for all of them. It takes
no traffic itself. Each worker is a whole gateway that finds its sockets and its memory instead of making them (`places`).
With one worker there is no supervisor.
"""
