-- The last step of every installation: without its HTTP client the job would be of no use.
do $$ begin perform qr_refresh.check_client(); end $$;
