# The primary's PostgreSQL dies: the guard sees it, the standbys elect, it comes back by itself.
nodes 3
kill postgres of old
  old postgres_exited killed
  any suspect old says that its PostgreSQL is gone
  any election
  any register has everything that was acknowledged
  new primary
  new rule old streams
settle
  never any suspect
