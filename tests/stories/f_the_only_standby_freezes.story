# PostgreSQL calls a frozen standby streaming; it is not believed.
nodes 2
freeze s1
  old rule s1 is gone: the rule becomes the primary alone
thaw s1
  old rule s1 streams
settle
