# synchronous_mode_strict: without a standby writes wait, and nobody is left behind.
nodes 2 minimum_k=1
kill node s1
  old rule no standby, though one is required
start s1
  old rule s1 streams
settle
